"""The prefixes of the documents that a question is about answer it, and no other is read."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.errors import PipelineError
from pipeline.inference.library import find, library_in
from pipeline.prefix import kv_prefix_from_tokens
from tests.conftest import Workspace, tiny_model

TEXTS = {
    "kenya.txt": "Kenya has a coast of 536 km. Its capital is Nairobi.",
    "norway.md": "Norway has a coast of 25,148 km. Its capital is Oslo.",
    "peru.txt": "Peru has a coast of 2,414 km. Its capital is Lima, and it grows coffee.",
}


def write(folder: Path) -> tuple[Path, Path]:
    documents, prefixes = folder / "documents", folder / "prefixes"
    documents.mkdir()
    for number, (name, text) in enumerate(TEXTS.items()):
        (documents / name).write_text(text)
        kv = kv_prefix_from_tokens(tiny_model(), [10 + number, 20, 30])
        kv.save(prefixes / Path(name).with_suffix(".safetensors"))
    return documents, prefixes


def test_the_documents_that_share_rare_words_come_first(tmp_path: Path) -> None:
    library = library_in(*write(tmp_path))
    assert [d.name for d in find("What is the capital of Norway?", library, 1)] == ["norway"]
    found = find("Is the coast of Peru longer than Kenya's coast?", library, 2)
    assert {d.name for d in found} == {"kenya", "peru"}
    assert found[0].score >= found[1].score > 0
    # Of what all share nothing is told: two are passed over, though there is room for three.
    assert [d.name for d in find("Has Norway a coast?", library, 3)] == ["norway"]
    # Only documents that share a word with the question are of use to it.
    assert [d.name for d in find("coffee", library, 3)] == ["peru"]
    assert found == find("Is the coast of Peru longer than Kenya's coast?", library, 2)


def test_what_a_library_lacks_is_told(tmp_path: Path) -> None:
    documents, prefixes = write(tmp_path)
    with pytest.raises(PipelineError, match="shares no word with the documents in"):
        find("Who?", library_in(documents, prefixes), 2)
    (prefixes / "norway.safetensors").unlink()
    library = library_in(documents, prefixes)
    assert "norway" not in {d.name for d in find("coast of Norway", library, 3)}
    with pytest.raises(PipelineError, match=r"no prefix of a document .* kenya.safetensors"):
        library_in(documents, tmp_path / "nowhere")
    with pytest.raises(PipelineError, match="there is no folder"):
        library_in(tmp_path / "nowhere", prefixes)
    (documents / "peru.md").write_text("Peru")
    with pytest.raises(PipelineError, match="holds two called peru"):
        library_in(documents, prefixes)
    (documents / "peru.md").write_bytes(b"\xff")
    (documents / "peru.txt").unlink()
    with pytest.raises(PipelineError, match=r"peru.md' is not UTF-8 text \(byte 0\)"):
        library_in(documents, prefixes)


@pytest.mark.real
def test_only_the_chosen_prefixes_are_read(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, prefixes = write(tmp_path)
    # What is not chosen is damaged, and no one notices.
    (prefixes / "norway.safetensors").write_text("damaged")
    monkeypatch.chdir(finished.root)
    library = ("--documents", str(documents), "--prefixes", str(prefixes))
    question = "coast of Peru, and Kenya"
    result = CliRunner().invoke(main, ["ask", question, *library])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("answering from peru (")
    both = [str(prefixes / f"{name}.safetensors") for name in ("kenya", "peru")]
    options = [option for path in both for option in ("--prefix", path)]
    assert result.stdout == CliRunner().invoke(main, ["generate", question, *options]).stdout
    damaged = CliRunner().invoke(main, ["ask", "Norway", *library])
    assert damaged.exit_code == 1
    assert "norway.safetensors: is no complete safetensors file" in damaged.stderr
