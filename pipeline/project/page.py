"""README.md of a new project: its commands."""

_PAGE = """# {name}

Prefixes for a frozen language model, trained and compared on the data in `inputs/`.
`params.yaml` says how, and explains every key; `pipeline/` is the code, and `dvc.yaml` its stages.

```sh
python -m pipeline check     # params.yaml is read and checked, nothing runs
dvc repro                    # run what changed
cat data/report/summary.md   # the comparison as a table; data/report/report.html is the page
python -m pipeline ui        # compare the runs in MLflow
```

On another machine, with Python 3.11 or newer:

```sh
python3 -m venv .venv
.venv/bin/pip install --requirement requirements.lock
source .venv/bin/activate
dvc pull                   # brings `inputs/` from your DVC remote
```
"""


def project_page(name: str) -> str:
    """The text of the page."""
    return _PAGE.format(name=name)
