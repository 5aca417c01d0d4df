"""A directory of query sets is complete or not there, and only query sets are ever replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from submixes import a_mixture, four_submixes

from orca.errors import UNFINISHED_STATUS, UserError
from orca.mixture import Collection, QueryTable, TakeAll
from orca.mixture.build import build_query_sets
from orca.mixture.output import complete_directory
from orca.mixture.query_set import read_manifest


@pytest.fixture(scope="module")
def submixes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_submixes(tmp_path_factory.mktemp("submixes"))


def test_overwriting_replaces_what_was_there(submixes: Path, tmp_path: Path) -> None:
    build_query_sets(a_mixture(submixes), tmp_path / "out", {})
    before = read_manifest(tmp_path / "out" / "flan5m")
    build_query_sets(a_mixture(submixes, seed=3), tmp_path / "out", {}, overwrite=True)
    assert read_manifest(tmp_path / "out" / "flan5m")["content_sha256"] != before["content_sha256"]


def test_only_query_sets_are_ever_replaced(submixes: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="overwrite=true"):
        build_query_sets(a_mixture(submixes), tmp_path / "out", {})
    with pytest.raises(UserError, match=r"thesis\.tex belongs to none"):
        build_query_sets(a_mixture(submixes), tmp_path / "out", {}, overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "x"
    (tmp_path / "out" / "thesis.tex").unlink()
    for _ in range(2):
        build_query_sets(a_mixture(submixes), tmp_path / "out", {}, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        build_query_sets(a_mixture(submixes), tmp_path / "file", {}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_two_programs_do_not_build_one_directory(submixes: Path, tmp_path: Path) -> None:
    with (
        complete_directory(tmp_path / "out", overwrite=False),
        pytest.raises(UserError, match="another program builds"),
    ):
        build_query_sets(a_mixture(submixes), tmp_path / "out", {})
    assert (tmp_path / "out").exists()


def test_a_failure_leaves_what_was_there(submixes: Path, tmp_path: Path) -> None:
    build_query_sets(a_mixture(submixes), tmp_path / "out", {})
    before = read_manifest(tmp_path / "out" / "flan5m")
    broken = a_mixture(submixes, collections={"t0": Collection(QueryTable("none"), TakeAll())})
    with pytest.raises(UserError, match=r"collection t0: no file matches .*t0=null leaves it out"):
        build_query_sets(broken, tmp_path / "out", {}, overwrite=True)
    assert read_manifest(tmp_path / "out" / "flan5m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stopped_program_leaves_nothing(submixes: Path, tmp_path: Path) -> None:
    arguments = [f"{c}.source.files={c.split('.')[-1]}/*" for c in COLLECTIONS]
    command = [
        sys.executable,
        "-c",
        STOPPED,
        "mixture=flan",
        f"mixture.path={submixes}",
        *arguments,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == UNFINISHED_STATUS, done.stderr
    assert "queries/flan was not written" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


COLLECTIONS = [f"mixture.collections.{name}" for name in ("cot", "niv2", "flan2021", "t0")]
STOPPED = """
import os, signal
import orca.mixture.build as build
from orca.config import run_program
from orca.mixture.__main__ import main
card = build.query_card
def stopped(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)  # when everything but the card is there
    return card(*arguments)
build.query_card = stopped
run_program(main, "queries")
"""
