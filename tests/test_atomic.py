"""Nothing half-written stands in place of good output."""

from pathlib import Path

import pytest

from pipeline.storage.atomic import atomic_file, atomic_folder


def fail_half_way(aside: Path) -> None:
    aside.write_text("half")
    raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), atomic_file(path) as aside:
        fail_half_way(aside)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_folder(path) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(OSError, match="disk"), atomic_folder(path) as aside:
        fail_half_way(aside / "a")
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_replaces_all_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for name in ("a", "b"):
        with atomic_folder(path) as aside:
            (aside / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["b"]
