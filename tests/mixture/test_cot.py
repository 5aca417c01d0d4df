"""FLAN's CoT tables as candidates: real counts, both forms of a row, data that looks like code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.errors import UserError
from orca.mixture.cot import CLOSED_ANSWERS, INVERSIONS, PREFIX, CotTables, _inverted
from orca.traces.formats import RowOrigin, read_flan_cot

TEXTS = st.text('{}%\\#|"abc é\U0001f600', min_size=1).filter(str.strip)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))


def candidates(source: CotTables, root: Path) -> list[dict[str, Any]]:
    return [row for file in source.open(str(root)) for row in pq.read_table(file.path).to_pylist()]


def by_hand(layout: str, texts: dict[str, str]) -> str:
    """The layout with its slots filled piece by piece, without str.format."""
    pieces = re.split(r"\{(\w+)\}", layout)
    return "".join(texts[piece] if n % 2 else piece for n, piece in enumerate(pieces))


def test_every_row_of_the_real_tables_gives_two_candidates(shared_data: Path) -> None:
    found = candidates(CotTables("flan_cot/*_train.tsv"), shared_data)
    assert len(found) == 2 * 33_443
    assert not any(row["problem"] for row in found)
    tasks = Counter(row["task"] for row in found)
    assert tasks["cot_gsm8k"] == tasks["cot_input_inversion_gsm8k"] == 7_473
    assert tasks["stream_aqua"] == tasks["stream_input_inversion_aqua"] == 2_728
    assert len(tasks) == 14
    assert len({(row["task"], row["row"]) for row in found}) == len(found)
    opt = Counter(row["task"] for row in found if row["template_type"] == "zs_opt")
    assert (opt["stream_aqua"], opt["cot_creak"], opt["cot_gsm8k"]) == (2_728, 4_931, 0)
    used = Counter(row["template"] for row in found if row["template"])
    assert len(used) == sum(map(len, INVERSIONS.values()))
    asked_from_the_answer = {
        row["task"].rsplit("_", 1)[1] for row in found if row["template"].startswith("answer_to_")
    }
    assert asked_from_the_answer == {"gsm8k", "ecqa"} == asked_from_the_answer - CLOSED_ANSWERS


def test_known_files_are_the_papers_18_tasks(tmp_path: Path) -> None:
    for dataset in PREFIX:
        (tmp_path / f"{dataset}_train.tsv").write_text("Why?\tso\tBecause.\n", encoding="utf-8")
    tasks = {row["task"] for row in candidates(CotTables("*.tsv"), tmp_path)}
    assert len(tasks) == 18
    assert {"stream_qed", "stream_input_inversion_qed", "cot_input_inversion_esnli"} <= tasks


def test_a_row_is_the_question_and_the_same_texts_turned_round(tmp_path: Path) -> None:
    line = "How many?\\nOptions:\\n- 2\\n- 3\t3\t1 + 1\\n+ 1 = 3\n"
    (tmp_path / "gsm8k_train.tsv").write_text(line, encoding="utf-8")
    plain, inverted = candidates(CotTables("gsm8k_train.tsv"), tmp_path)
    assert plain == {
        "task": "cot_gsm8k",
        "template": "",
        "template_type": "zs_opt",
        "query": "How many?\nOptions:\n- 2\n- 3",
        "targets": ["1 + 1\n+ 1 = 3.\nThe answer is 3."],
        "row": 1,
        "problem": None,
    }
    kind, number = inverted["template"].split("/")
    texts = {"question": plain["query"], "answer": "3", "rationale": "1 + 1\n+ 1 = 3"}
    query, target = INVERSIONS[kind][int(number)]
    assert inverted["query"] == by_hand(query, texts)
    assert inverted["targets"] == [by_hand(target, texts)]
    assert inverted["template_type"] == "zs_noopt"
    assert len(candidates(CotTables("gsm8k_train.tsv", inverted=False), tmp_path)) == 1


def test_layouts_ask_from_what_they_show_and_answer_with_the_rest() -> None:
    """The kind's name says which texts are given and which are wanted; none is on both sides."""
    for kind, layouts in INVERSIONS.items():
        given_texts, wanted = (set(side.split("_")) for side in kind.split("_to_"))
        for query, target in layouts:
            assert set(re.findall(r"\{(\w+)\}", query)) == given_texts
            assert set(re.findall(r"\{(\w+)\}", target)) == wanted
        assert not given_texts & wanted


@given(TEXTS, TEXTS, TEXTS, st.integers(1, 10**6))
def test_texts_of_a_row_are_never_read_as_a_layout(q: str, a: str, r: str, line: int) -> None:
    row = {"question": q, "answer": a, "rationale": r}
    one = _inverted("gsm8k", line, row)
    kind, number = one.template.split("/")
    texts = {name: text.replace("\\n", "\n").strip() for name, text in row.items()}
    texts["answer"] = texts["answer"].removesuffix(".")
    query, target = INVERSIONS[kind][int(number)]
    assert one.query == by_hand(query, texts)
    assert one.targets == (by_hand(target, texts),)


def test_rendering_twice_gives_the_same_bytes_and_the_response_of_the_trace_reader(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CotTables("flan_cot/qasc_train.tsv")
    (first,) = source.open(str(shared_data))
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "other"))
    (second,) = source.open(str(shared_data))
    assert first.path != second.path
    assert Path(first.path).read_bytes() == Path(second.path).read_bytes()
    plain = pq.read_table(first.path).to_pylist()[0]
    text = (shared_data / "flan_cot/qasc_train.tsv").read_text(encoding="utf-8").split("\n")[0]
    row = dict(zip(("question", "answer", "rationale"), text.split("\t"), strict=True))
    assert plain["targets"] == [read_flan_cot(row, RowOrigin("")).response]


def test_a_line_without_three_columns_is_one_problem_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "qed_train.tsv").write_text("Why?\tso\tBecause.\nonly this\n", encoding="utf-8")
    *good, bad = candidates(CotTables("*.tsv"), tmp_path)
    assert len(good) == 2
    assert (bad["task"], bad["row"], bad["query"]) == ("stream_qed", 2, None)
    assert bad["problem"].startswith("wrong_columns: ")


def test_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "arithmetic_train.tsv").write_text("a\tb\tc\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"arithmetic_train.tsv: unknown task 'arithmetic'"):
        CotTables("*.tsv").open(str(tmp_path))
