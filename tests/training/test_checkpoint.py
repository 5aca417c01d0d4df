"""Checkpoints on disk: whole or absent, checked when read, and never in the way of training."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orca.errors import UserError
from orca.training import checkpoints, newest_checkpoint
from orca.training.checkpoint import MANIFEST_FILE, CheckpointWriter, load


def tensors(value: float, size: int = 1000) -> dict[str, Any]:
    return {"model": {"w": torch.full((size,), value)}, "optimizer": {"step": torch.tensor(value)}}


def write(directory: Path, *steps: int, keep: int = 5, asynchronous: bool = True) -> None:
    writer = CheckpointWriter(directory, keep, asynchronous)
    writer.prepare()
    for step in steps:
        writer.save(step, tensors(step), {"global_step": step})
    writer.wait()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, asynchronous: bool) -> None:
    write(tmp_path, 3, asynchronous=asynchronous)
    found = newest_checkpoint(tmp_path)
    assert found == (3, tmp_path / "step00000003")
    empty = tensors(0.0)
    assert load(found[1], empty) == {"global_step": 3}
    assert torch.equal(empty["model"]["w"], torch.full((1000,), 3.0))
    assert float(empty["optimizer"]["step"]) == 3.0


def test_training_may_change_the_weights_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    may_write = threading.Event()
    write_now = CheckpointWriter._write

    def later(self: CheckpointWriter, *arguments: Any) -> None:
        assert may_write.wait(30)
        write_now(self, *arguments)

    monkeypatch.setattr(CheckpointWriter, "_write", later)
    writer = CheckpointWriter(tmp_path, 1, asynchronous=True)
    writer.prepare()
    live = tensors(1.0)
    writer.save(1, live, {"global_step": 1})
    for part in (live["model"]["w"], live["optimizer"]["step"]):
        part.fill_(9.0)
    assert checkpoints(tmp_path) == []  # it is not there before it is whole
    may_write.set()
    writer.wait()
    loaded = tensors(0.0)
    load(tmp_path / "step00000001", loaded)
    assert float(loaded["model"]["w"].max()) == 1.0 == float(loaded["optimizer"]["step"])


def test_old_checkpoints_are_deleted_once_a_newer_one_is_whole(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [2, 3]


def test_state_is_that_of_the_moment_of_saving(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 1, asynchronous=True)
    writer.prepare()
    state: dict[str, Any] = {"rows": [1, 2]}
    writer.save(1, tensors(1.0), state)
    state["rows"].append(3)
    writer.wait()
    assert load(tmp_path / "step00000001", tensors(0.0)) == {"rows": [1, 2]}


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_newer_checkpoints_are_set_aside_and_never_crowd_out_whole_ones(
    tmp_path: Path, keep: int
) -> None:
    write(tmp_path, 50, 100, 150)
    for step in (100, 150):
        truncate(tmp_path / f"step00000{step}" / "__0_0.distcp")
    assert newest_checkpoint(tmp_path) == (50, tmp_path / "step00000050")
    aside = sorted(path.name for path in tmp_path.glob("*.damaged"))
    assert aside == ["step00000100.damaged", "step00000150.damaged"]
    for path in list(tmp_path.glob("*.damaged")):  # even if someone puts them back
        path.rename(path.with_suffix(""))
    write(tmp_path, 60, keep=keep)
    assert [step for step, _ in checkpoints(tmp_path)][-3:] == [60, 100, 150]
    assert newest_checkpoint(tmp_path) == (60, tmp_path / "step00000060")


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"state.pt": 1}', '{"state.pt'])
def test_a_manifest_that_says_nothing_is_damage(tmp_path: Path, text: str) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "step00000002" / MANIFEST_FILE).write_text(text)
    assert newest_checkpoint(tmp_path) == (1, tmp_path / "step00000001")


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("spoil", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.pt", MANIFEST_FILE])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, name: str
) -> None:
    if (spoil, name) == (flip, MANIFEST_FILE):
        pytest.skip("a changed digit of the manifest is a changed checksum, as for the files")
    write(tmp_path, 1, 2)
    spoil(tmp_path / "step00000002" / name)
    assert newest_checkpoint(tmp_path) == (1, tmp_path / "step00000001")
    said = capsys.readouterr().err
    assert "step00000002 is damaged" in said and name in said


def test_where_all_are_damaged_nothing_starts_from_scratch_by_itself(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    write(tmp_path, 1, 2)
    for step in (1, 2):
        truncate(tmp_path / f"step0000000{step}" / "__0_0.distcp")
    with pytest.raises(UserError, match=r"all 2 checkpoint\(s\).*damaged.*overwrite=true"):
        newest_checkpoint(tmp_path)


def test_what_a_kill_left_is_no_checkpoint_and_is_cleared(tmp_path: Path) -> None:
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "step00000001", tmp_path / "step00000002.partial")
    assert newest_checkpoint(tmp_path) == (1, tmp_path / "step00000001")
    CheckpointWriter(tmp_path, 1, True).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["step00000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_is_an_error_that_leaves_the_checkpoint_before(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    writer = CheckpointWriter(small_disk, 2, asynchronous)
    writer.prepare()
    writer.save(1, tensors(1.0), {"global_step": 1})
    writer.wait()
    large = tensors(2.0, 1 << 19)
    with pytest.raises(UserError, match=r"no room for the checkpoint of step 2.*GiB free.*resume"):
        writer.save(2, large, {"global_step": 2})
    # Another program may take the room after the look: the write itself then fails.
    monkeypatch.setattr(CheckpointWriter, "_check_room", lambda *_: None)
    with pytest.raises(UserError, match=r"step 2 could not be written.*(space|Space|write)"):
        writer.save(2, large, {"global_step": 2})
        writer.wait()
    assert newest_checkpoint(small_disk) == (1, small_disk / "step00000001")
    writer.prepare()
    writer.save(3, tensors(3.0), {"global_step": 3})  # room again
    writer.wait()
    assert newest_checkpoint(small_disk) == (3, small_disk / "step00000003")


def test_a_failed_write_is_known_before_the_next_save(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointWriter, "_check_room", lambda *_: None)
    writer = CheckpointWriter(small_disk, 2, asynchronous=True)
    writer.prepare()
    writer.save(2, tensors(2.0, 1 << 19), {"global_step": 2})
    while not writer._pending.done():  # type: ignore[union-attr]
        pass
    assert writer.has_failed


def test_a_directory_that_cannot_be_written_is_refused_before_the_first_step(
    small_disk: Path,
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"checkpoints cannot be written: .*Read-only"):
        CheckpointWriter(small_disk / "checkpoints", 2, True).prepare()
