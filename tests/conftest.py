"""What tests share: a tiny random model with a real tokenizer, and a workspace to run DVC in."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from filelock import FileLock
from ruamel.yaml import YAML
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.prefix import KVPrefix, PrefixModel
from tests import devices, forking

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = Path(__file__).resolve().parent / "stand_in.py"
# Where this environment's python, dvc and mlflow are.
REAL = Path(sys.executable).parent

WHOLE_SWEEPS = bool(os.environ.get("WHOLE_SWEEPS"))
"""Whether dear sweeps run whole, as by `make test-all`."""
DEAR = pytest.mark.skipif(not WHOLE_SWEEPS, reason="dear, so that `make test-all` alone runs it")

CORPUS = "Each record has lines. A line names a field and gives its value. Copy the value. " * 4

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# The files that take longest, so that no worker begins one while the other has nothing left. The
# first builds the sweep that others copy, and the second needs none.
LONGEST_FIRST = (
    *("test_reruns.py", "test_writes.py", "test_pipeline.py", "test_real_project.py"),
    *("test_dvc_commands.py", "test_own_files.py", "test_smollm2.py", "test_kills.py"),
    *("test_sweep.py", "test_gpt2.py", "test_demo.py"),
    "test_training.py",
    *("test_fuzz.py", "test_dvc.py", "test_using.py", "test_steering.py", "test_tasks.py"),
    *("test_docs.py", "test_notebooks.py", "test_ray.py"),
    *("test_forking.py", "test_architectures.py", "test_mlflow.py", "test_encoders.py"),
    *("test_page.py", "test_progress.py", "test_mlflow_ui.py"),
    *("test_self_study_graph.py", "test_library_graph.py", "test_census.py", "test_baselines.py"),
    *("test_distractors.py", "test_mlflow_postgres.py", "test_many_connections.py", "test_kept.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--device`, of tests/prefix; the rest goes by params.yaml, whose `auto` is any there is."""
    parser.addoption("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by `LONGEST_FIRST`; pytest-xdist hands them out in this order."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Libraries leave variables behind, with which later children would be started the slow way."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True, scope="session")
def _as_at_home() -> Iterator[None]:
    """Workspaces run as a person's do, whoever runs the tests; those of CI set it themselves.

    A command that a fixture runs in this process silences no bar of later children.
    """
    with mock.patch.dict(os.environ), mock.patch("pipeline.cli.main.quiet_libraries"):
        os.environ.pop("CI", None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tiny matrices: handing them to a second core costs more than it saves.
    torch.set_num_threads(1)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: it can encode any text and knows 260 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A random two-layer Llama in float32 with grouped queries."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval().to(devices.chosen)


def kv_of(model: PrefixModel) -> KVPrefix:
    """The prefix of a model that has one."""
    kv = model.kv_prefix()
    assert kv is not None
    return kv


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def model() -> LlamaForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and tokenizer as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def rows(split: str, count: int) -> list[dict[str, str]]:
    """Rows of a toy task: copy the value of a field."""
    return [
        {"key": f"{split} {index}", "record": f"size: {index} km", "value": f"{index} km"}
        for index in range(count)
    ]


def sweep_of(lengths: list[int], initializations: list[str]) -> dict[str, Any]:
    """The section `sweep` of variants with one seed and all of the training split."""
    grid = {"lengths": lengths, "initializations": initializations, "seeds": [0]}
    return {**grid, "train_sizes": [], "learning_rates": [], "in_context": []}


def tiny_params(model_folder: Path) -> dict[str, Any]:
    """A sweep of four variants over a toy task that runs in seconds."""
    return {
        "model": {"source": "local", "path": str(model_folder), "dtype": "float32"},
        "data": {
            "source": "files",
            "path": "inputs",
            "files": {
                "train": "inputs/train.jsonl",
                "validation": "inputs/validation.csv",
                "test": "inputs/test.parquet",
            },
        },
        "task": {
            "input_template": "{{ record }}\n{{ key }}?",
            "target_template": "{{ value }}",
            "use_chat_template": True,
            "max_length": 128,
        },
        "initializations": {
            "random": {"type": "random", "path": "data/model/config.json"},
            "corpus": {"type": "corpus_text", "path": "texts/corpus.txt"},
        },
        "sweep": sweep_of([2, 4], ["random", "corpus"]),
        "kv_prefix": {"max_length": 16},
        "prefix": {"distractors": {"path": "data/model/config.json"}},
        "teachers": {},
        "train": {
            "objective": {"type": "target", "path": "data/tokenized/splits/train"},
            "learning_rate": 5e-3,
            "max_steps": 4,
            "epochs": None,
            "batch_size": 4,
            "eval_every_steps": 2,
        },
        "evaluate": {
            **{"splits": ["test"], "max_new_tokens": 4},
            "teacher": "data/model/config.json",
        },
        "baselines": {"no_prefix": {"type": "no_prefix", "path": "data/model/config.json"}},
        "trained_baselines": {},
        "inspection": {"examples": 2},
        "report": {"dpi": 60, "resamples": 100},
        "mlflow": {"experiment": "tiny"},
    }


class Workspace:
    """A clone of the repository with inputs and params of its own.

    Its stages run in forks of a process with the libraries imported; see tests/forking.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands = forking.commands() or REAL

    @property
    def params(self) -> dict[str, Any]:
        return dict(YAML(typ="safe").load((self.root / "params.yaml").read_text()))

    def write(self, params: dict[str, Any]) -> None:
        with (self.root / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(params, file)

    def real_interpreters(self) -> None:
        """Let `python` be an interpreter that imports everything itself, as a user's is."""
        self.commands = REAL

    def stand_in_for_stages(self) -> None:
        """Let `python`, as dvc.yaml calls it, be the stand-in that computes nothing."""
        self.commands = self.root / ".commands"
        self.commands.mkdir(exist_ok=True)
        python = self.commands / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{STAND_IN}" "$@"\n')
        python.chmod(0o755)
        if forked := forking.commands():
            dvc = self.commands / "dvc"
            dvc.unlink(missing_ok=True)  # of another object for the same folder
            dvc.symlink_to(forked / "dvc")

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        params = self.params
        change(params)
        self.write(params)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command: this Python's, with its own `python` in front."""
        environment = {
            **os.environ,
            "PATH": os.pathsep.join((str(self.commands), str(REAL), os.environ["PATH"])),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        # A workspace keeps what it compiles, or each of its stages would compile it anew.
        for variable in ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE"):
            environment.pop(variable, None)
        return environment

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this Python's environment in the workspace."""
        result = subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, env=self.environment
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(command)} failed:\n{result.stdout}\n{result.stderr}")
        return result

    def pipeline(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "pipeline", *arguments, check=check)


def make_workspace(root: Path, model_folder: Path) -> Workspace:
    """The repository's own files in a new git and DVC repository, with a toy task beside them."""
    for name in ("pipeline", "corpora"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    if (ROOT / ".dvc" / "plots").is_dir():
        assert (root / ".dvc" / "plots").is_dir()
    inputs = root / "inputs"
    inputs.mkdir()
    import pandas as pd

    lines = [json.dumps(row) for row in rows("train", 12)]
    (inputs / "train.jsonl").write_text("\n".join(lines) + "\n")
    pd.DataFrame(rows("validation", 4)).to_csv(inputs / "validation.csv", index=False)
    pd.DataFrame(rows("test", 5)).to_parquet(inputs / "test.parquet")
    (root / "texts").mkdir()
    (root / "texts" / "corpus.txt").write_text(CORPUS)
    workspace = Workspace(root)
    workspace.write(tiny_params(model_folder))
    workspace.run("git", "init", "-q")
    workspace.run("git", "add", "-A")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    workspace.run("git", *identity, "commit", "-qm", "start")
    return workspace


@pytest.fixture
def workspace(tmp_path: Path, model_folder: Path) -> Workspace:
    return make_workspace(tmp_path, model_folder)


def copied(workspace: Workspace, root: Path) -> Workspace:
    """A workspace elsewhere with the same files; its MLflow runs are its own."""
    # A thousand files, which Python would take ten times as long to copy.
    subprocess.run(["cp", "-a", workspace.root, root], check=True)
    # As if it had moved: a copy beside its original would leave the runs that it has alone.
    name = root / "data" / "workspace.json"
    name.write_text(json.dumps({**json.loads(name.read_text()), "home": str(root)}))
    return Workspace(root)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Workspace:
    """A workspace after its first `dvc repro`, which runs once for all of pytest-xdist's workers.

    Each worker has a copy: DVC would lock the one out while the other looks at it.
    """
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "first-sweep"
    with FileLock(f"{root}.lock"):
        if not (root / "first_output.txt").exists():
            output = make_workspace(root, model_folder).run("dvc", "repro").stdout
            (root / "first_output.txt").write_text(output)
    return copied(Workspace(root), own / "finished")


@pytest.fixture
def copy(finished: Workspace, tmp_path: Path) -> Workspace:
    """The finished workspace, to edit."""
    return copied(finished, tmp_path / "copy")
