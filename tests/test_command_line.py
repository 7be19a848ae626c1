"""The command line starts at once: what costs seconds is imported by what needs it."""

import subprocess
import sys

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
