"""Questions with a gold answer of their own: GSM8K and held-out traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orca.errors import UserError
from orca.evaluation.ask import _read
from orca.evaluation.free_answer import GSM8K, HeldOutTraces
from orca.evaluation.item import Item, Sample
from orca.evaluation.scores import grade, score
from orca.sample import SAMPLE_DIR
from orca.traces import TraceSource


def answered(item: Item, text: str, finish_reason: str = "stop") -> Sample:
    capital, stated = _read(item, text, finish_reason)
    return Sample(
        item.id, item.benchmark, item.task, 0, 0, 1, item.prompt, text, finish_reason,
        item.gold, capital, stated,
    )  # fmt: skip


def held_out() -> HeldOutTraces:
    return HeldOutTraces("held_out.jsonl", "trace", str(SAMPLE_DIR))


def test_the_teachers_own_responses_are_right_and_those_to_other_questions_hardly() -> None:
    items, source = held_out().items(), TraceSource("held_out.jsonl", "trace", str(SAMPLE_DIR))
    assert len(items) == 240 and len({item.task for item in items}) == 15
    responses = [source[number].response for number in range(len(source))]
    own = [answered(item, text) for item, text in zip(items, responses, strict=True)]
    assert all(one.correct and one.stated_correct for one in own)
    shifted = responses[1:] + responses[:1]
    others = [answered(item, text) for item, text in zip(items, shifted, strict=True)]
    right = sum(one.correct for one in others)
    assert right < 60, "options and small numbers agree by chance, no more"
    assert all(one.first_capital for one in others), "each of them states an answer"
    *tasks, average = score(grade(others, items))
    assert len(tasks) == 15 and average.chance == 0 and average.format_failures == 0
    assert average.accuracy.value == pytest.approx(right / 240)  # tasks have 16 questions each


def test_an_answer_is_the_stated_one_or_the_last_number_or_none() -> None:
    item = Item("gsm8k/0", "gsm8k", "gsm8k", "How many?", gold=("1200",))
    for text in ("The answer is 1,200.", "So $1,200.00 in all", "#### 1200", "1 + 1199 = 1200"):
        assert answered(item, text).first_capital == "1200" and answered(item, text).correct, text
    wrong = answered(item, "The answer is 12. No: 1200 of them.")
    assert wrong.first_capital.startswith("12.") or wrong.first_capital == "12"
    assert not wrong.correct
    nothing = answered(item, "I do not know.")
    assert nothing.first_capital == "" and not nothing.correct
    assert answered(item, "1200", "failed").first_capital == ""


def test_gsm8k_has_its_questions_and_answers(shared_data: Path) -> None:
    items = GSM8K(str(shared_data)).items()
    assert len(items) == 1319 and items[0].gold == ("18",)
    assert items[0].prompt.startswith("Janet")
    rows = (shared_data / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(row)["answer"] for row in rows]
    samples = [answered(item, text) for item, text in zip(items, texts, strict=True)]
    assert all(one.correct for one in samples), "the published solutions end in their answers"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "answer": "no mark"}, "row 0: no answer after one ####"),
        ({"question": "Q"}, "row 0: field 'answer'"),
    ],
)
def test_a_bad_row_of_gsm8k_is_named(row: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=message):
        GSM8K(str(tmp_path)).items()


def test_held_out_traces_need_gold_answers_and_known_tasks(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"query": "Q", "response": "R"}))
    with pytest.raises(UserError, match=r"t\.jsonl, row 1: it has no gold_answer"):
        HeldOutTraces("t.jsonl", "trace", str(tmp_path)).items()
    with pytest.raises(UserError, match="no trace is of gdc"):
        HeldOutTraces("held_out.jsonl", "trace", str(SAMPLE_DIR), ["gdc"]).items()
    chosen = HeldOutTraces("held_out.jsonl", "trace", str(SAMPLE_DIR), ["gcd", "aiw"]).items()
    assert {item.task for item in chosen} == {"gcd", "aiw"} and len(chosen) == 32
