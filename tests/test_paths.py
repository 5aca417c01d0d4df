"""Files and directories of the project are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orca.paths import made_once, replacing


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(file) as partial:
        partial.write_text("ne")
        raise OSError("the disk is full")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("is_directory", [False, True])
def test_what_a_killed_process_left_is_not_in_the_new_one(
    tmp_path: Path, is_directory: bool
) -> None:
    left = tmp_path / "made.partial"
    if is_directory:
        left.mkdir()
        (left / "half").touch()
    else:
        left.write_text("half")
    with replacing(tmp_path / "made") as partial:
        assert not partial.exists()
        partial.mkdir()
        (partial / "whole").touch()
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob("*")] == [
        Path("made"),
        Path("made/whole"),
    ]


def test_what_is_made_once_is_made_once_and_again_after_a_failure(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("half")
        if len(made) == 1:
            raise OSError("the disk is full")
        path.write_text("whole")

    target = tmp_path / "model"
    with pytest.raises(OSError, match="disk"):
        made_once(target, make)
    assert not target.exists()
    assert [made_once(target, make).read_text() for _ in range(2)] == ["whole", "whole"]
    assert len(made) == 2
