"""Files of one source that are read and shown in different ways."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from orca.errors import UserError
from orca.traces import BadRow, TraceSource
from orca.traces.files import open_rows

ROW = {"system_message": "Think.", "query": "2 + 2?", "response": "It is 4.", "gold_answer": "4"}
PUBLIC = {"id": "cot.1", "system_prompt": "Be short.", "question": "1 + 1?", "response": "2"}


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "own.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW) + "\n")
    (tmp_path / "public.jsonl").write_text(json.dumps(PUBLIC) + "\n")
    return str(tmp_path)


def shown(directory: str, files: Any, **default: Any) -> list[tuple[str, str, str]]:
    source = TraceSource(files, root=directory, **{"format": "trace", **default})
    return [(t.system_message, t.query, t.response) for t in source]


def test_every_file_set_is_shown_in_its_own_way_and_the_rest_in_the_sources(
    directory: str,
) -> None:
    files = [
        "own.jsonl",
        {"files": "public.jsonl", "format": "openorca"},
        {"files": ["own.jsonl"], "system_message": "", "answers_only": True},
    ]
    expected = [
        *[("Think.", "2 + 2?", "It is 4.")] * 2,
        ("Be short.", "1 + 1?", "2"),
        *[("", "2 + 2?", "The answer is 4.")] * 2,
    ]
    assert shown(directory, files) == expected
    assert shown(directory, OmegaConf.create(files)) == expected  # as Hydra gives them
    erased = shown(directory, files, system_message="Be careful.")
    assert [one[0] for one in erased] == ["Be careful."] * 3 + [""] * 2


def test_the_fingerprint_knows_how_rows_are_shown(directory: str) -> None:
    ways: list[Any] = [
        "own.jsonl",
        {"files": "own.jsonl", "system_message": ""},
        {"files": "own.jsonl", "system_message": "None"},
        {"files": "own.jsonl", "answers_only": True},
        ["own.jsonl", {"files": "own.jsonl", "answers_only": True}],
    ]
    found = {TraceSource(way, "trace", root=directory).fingerprint for way in ways}
    assert len(found) == len(ways)
    same = TraceSource({"files": ["own.jsonl"]}, "trace", root=directory)
    assert same.fingerprint == TraceSource("own.jsonl", "trace", root=directory).fingerprint


def test_checkpoints_from_before_file_sets_go_on(directory: str) -> None:
    """Their fingerprint: the format, what is shown in place of it, and the files."""

    def expected(way: str, *names: str) -> str:
        digest = hashlib.sha256(way.encode())
        for name in names:
            for rows in open_rows(name, directory):
                digest.update(rows.fingerprint().encode())
        return digest.hexdigest()[:16]

    def found(files: Any, **default: Any) -> str:
        return TraceSource(files, "trace", root=directory, **default).fingerprint

    assert found("own.jsonl") == expected("trace", "own.jsonl")
    both = ["own.jsonl", "public.jsonl"]
    assert found(both) == found({"files": both}) == expected("trace", *both)
    assert found("own.jsonl", system_message="") == expected("trace('', False)", "own.jsonl")


def test_how_all_files_are_shown_is_known_only_where_they_are_shown_alike(directory: str) -> None:
    alike = TraceSource([{"files": "own.jsonl", "system_message": ""}], "trace", root=directory)
    assert alike.shown is not None and alike.shown.system_message == ""
    mixed = TraceSource(["own.jsonl", {"files": "own.jsonl", "system_message": ""}], "trace")
    assert mixed.shown is None


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"files": "own.jsonl", "fromat": "trace"}, "fromat"),
        ({"format": "trace"}, "must have files"),
        ({"files": "own.jsonl", "format": "csv"}, "data.format='csv'"),
        ({"files": "own.jsonl", "system_message": 17}, "data.system_message=17 must be a text"),
        ({"files": "own.jsonl", "answers_only": "false"}, "data.answers_only='false'"),
        ({"files": 5}, "must be a pattern"),
        ({"files": {"a": "own.jsonl"}}, "must be a pattern"),
    ],
)
def test_a_wrong_file_set_is_named(directory: str, files: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        TraceSource(files, "trace", root=directory)


def test_rows_without_answers_are_bad_rows_where_answers_are_asked_for(directory: str) -> None:
    files = {"files": "public.jsonl", "format": "openorca", "answers_only": True}
    with pytest.raises(BadRow) as error:
        TraceSource(files, "trace", root=directory)[0]
    assert error.value.reason == "no_gold_answer"
