"""The command line starts at once, and ends in a sentence that fits the command."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "datasets", "pandas", "mlflow", "altair", "dvc", "sacrebleu")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pipeline.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage:" in result.stdout
    assert result.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(("command", "is_stage"), [("tokenize", True), ("check", False)])
def test_ctrl_c_speaks_of_dvc_where_dvc_runs_it(
    command: str, is_stage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "callback", pressed)
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 130
    assert result.stderr.startswith("error: stopped")
    assert ("`dvc repro` runs this stage again" in result.stderr) == is_stage
