"""A run: what is asked, what is kept, what a second program does, and what it leaves to read.

The engine is a stand-in that answers by rule: what a real one answers is test_hf_engine's matter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca.errors import UserError
from orca.evaluation import (
    Item,
    Protocol,
    Records,
    Results,
    ask,
    ask_all,
    build_results,
    check_others,
    check_system_messages,
    fingerprint,
    read_samples,
    results,
    save_results,
    stratified,
)
from orca.evaluation.ask import seed_of
from orca.evaluation.engine import Output, Prompt

ORCA = Protocol("orca", draws=2)
GREEDY = Protocol("greedy", temperature=0.0)


def an_item(number: int, task: str = "navigate", benchmark: str = "bbh") -> Item:
    return Item(
        f"{benchmark}/{task}/{number}", benchmark, task, f"Q{number}: <b>{task}</b>?",
        ("A", "B"), ("yes", "no"), ("A",) if number % 2 else ("B",),
    )  # fmt: skip


ITEMS = [an_item(n, task) for task in ("navigate", "snarks") for n in range(6)]


class Answers:
    """Says A to every prompt; "mumble" to each item 5, and ends as told after so many answers."""

    def __init__(self, stop_after: int = 10**6, fail: str = "") -> None:
        self.stop_after = stop_after
        self.fail = fail
        self.asked: list[Prompt] = []

    def describe(self) -> dict[str, Any]:
        return {"engine": "answers"}

    def generate(
        self, prompts: Sequence[Prompt], temperature: float, max_new_tokens: int
    ) -> Iterator[Output]:
        for prompt in reversed(prompts):
            self.asked.append(prompt)
            if len(self.asked) > self.stop_after:
                raise KeyboardInterrupt
            if self.fail and self.fail in prompt.user:
                yield Output(prompt.key, "", "failed", error="timeout")
                continue
            text = "mumble" if prompt.user.startswith("Q5") else "A, I think. The answer is (B)."
            yield Output(prompt.key, text, "stop", 7, 3, 0.1)

    def loglikelihoods(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, list[float]]]:
        for prompt, texts in zip(prompts, continuations, strict=True):
            yield prompt.key, [-float(i) for i, _ in enumerate(texts)]


def run(
    path: Path, engine: Answers, protocol: Protocol = ORCA, messages: Sequence[int] = (1,)
) -> Any:
    records = Records(path, {"model": "m", "protocol": protocol.name})
    return ask_all(engine, ITEMS, protocol, messages, records)


def test_an_interrupted_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    first = Answers(stop_after=10)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first)
    assert len(read_samples(tmp_path)) == 10
    second = Answers()
    samples = run(tmp_path, second)
    assert len(second.asked) == 24 - 10
    assert not {p.key for p in first.asked[:10]} & {p.key for p in second.asked}
    assert [(s.draw, s.item) for s in samples] == [(d, i.id) for d in range(2) for i in ITEMS]
    third = Answers()
    assert run(tmp_path, third) == samples and not third.asked
    rows = pq.read_table(tmp_path / "samples").to_pylist()
    assert len(rows) == 24
    for row in rows:
        assert row["correct"] == (row["first_capital"] in row["gold"])
        assert row["stated"] == ("" if row["text"] == "mumble" else "B")


def test_seeds_depend_on_the_answer_alone_and_differ_between_draws(tmp_path: Path) -> None:
    samples = run(tmp_path, Answers())
    seeds = {(s.item, s.draw): s.seed for s in samples}
    assert len(set(seeds.values())) == len(seeds)
    assert all(seed == seed_of((item, 1, draw), 0) for (item, draw), seed in seeds.items())
    assert seed_of(("bbh/navigate/0", 1, 0), 0) != seed_of(("bbh/navigate/0", 1, 0), 1)


def test_a_request_that_failed_is_asked_again_and_all_failing_is_an_error(tmp_path: Path) -> None:
    samples = run(tmp_path, Answers(fail="Q3"))
    assert sum(s.finish_reason == "failed" for s in samples) == 4
    assert len(read_samples(tmp_path)) == 20
    results = build_results("m", {}, ORCA, {"bbh": ITEMS}, samples)
    assert [one.failed for one in results.scores["bbh"]["m (orca)"]] == [2, 2, 4]
    again = Answers()
    run(tmp_path, again)
    assert len(again.asked) == 4
    with pytest.raises(UserError, match="every request failed, the first with: timeout"):
        run(tmp_path / "other", Answers(fail="Q"))


def test_a_task_without_any_answer_is_told_and_in_no_average(tmp_path: Path) -> None:
    """The other tasks keep their scores, also where several system messages were asked."""
    engine = Answers(fail="<b>snarks")
    samples = run(tmp_path, engine, GREEDY, (1, 5))
    results = build_results("m", {}, GREEDY, {"bbh": ITEMS}, samples)
    assert [one.task for one in results.scores["bbh"]["m (greedy, message 1)"]] == [
        "navigate", "average"
    ]  # fmt: skip
    told = [note for note in results.notes if note.startswith("bbh/snarks: no answer came")]
    assert len(told) == 2 and "any of its 6 requests" in told[0] and told[0].endswith("timeout")
    nothing = build_results("m", {}, GREEDY, {"bbh": ITEMS[6:]}, samples[6:12])
    assert not nothing.scores and len(nothing.notes) == 1


def test_runs_to_compare_with_are_a_list_of_runs(tmp_path: Path) -> None:
    Records(tmp_path, {"model": "m"})
    out = tmp_path / "out"
    assert check_others([str(tmp_path)], out) == [tmp_path] and check_others([], out) == []
    with pytest.raises(UserError, match="is this run itself"):
        check_others([str(tmp_path / "x" / "..")], tmp_path)
    with pytest.raises(UserError, match=r"compare=/a/run: a list, as compare=\[/a/run\]"):
        check_others("/a/run", out)
    with pytest.raises(UserError, match=r"/a/run is no run of evaluate\.py"):
        check_others(["/a/run"], out)


def test_other_facts_are_refused_and_new_ones_are_added(tmp_path: Path) -> None:
    Records(tmp_path, {"model": "m", "data bbh": "1"})
    Records(tmp_path, {"model": "m", "data bbh": "1", "data agieval": "2"})
    with pytest.raises(UserError, match=r"another model \(m → n\): give another out="):
        Records(tmp_path, {"model": "n"})
    with pytest.raises(UserError, match="data agieval"):
        Records(tmp_path, {"data agieval": "3"})
    assert fingerprint(ITEMS) != fingerprint(ITEMS[1:]) != fingerprint([*ITEMS[1:-1], ITEMS[0]])


def test_a_second_process_in_the_directory_is_refused(tmp_path: Path) -> None:
    first = Records(tmp_path, {"model": "m"})
    with pytest.raises(UserError, match="another process adds to"):
        Records(tmp_path, {"model": "m"})
    first.close()
    Records(tmp_path, {"model": "m"})


def test_damaged_records_are_named_with_the_way_out(tmp_path: Path) -> None:
    run(tmp_path, Answers())
    part = next((tmp_path / "samples").glob("*.parquet"))
    whole = part.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        part.write_bytes(damaged)
        with pytest.raises(UserError, match=r"part-00000\.parquet is damaged.*: delete it, and"):
            read_samples(tmp_path)
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(table.drop_columns(["text"]), part)
    with pytest.raises(UserError, match="of another version"):
        read_samples(tmp_path)
    (tmp_path / "facts.json").write_text('{"model')
    with pytest.raises(UserError, match=r"facts\.json is damaged"):
        Records(tmp_path, {"model": "m"})
    (tmp_path / "facts.json").unlink()
    with pytest.raises(UserError, match=r"has no facts\.json"):
        Records(tmp_path, {"model": "m"})


def test_answers_that_are_there_are_read_by_this_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a run that is compared with; what is on disk stays."""
    records = Records(tmp_path, {"protocol": dataclasses.asdict(GREEDY), "data bbh": "d"})
    monkeypatch.setattr(ask, "stated_label", lambda *_: "")
    ask_all(Answers(), ITEMS, GREEDY, [1], records)
    monkeypatch.undo()
    assert not any(one.stated for one in read_samples(tmp_path))
    engine = Answers()
    samples = ask_all(engine, ITEMS, GREEDY, [1], records)
    assert not engine.asked
    assert [one.stated for one in samples if one.text != "mumble"] == ["B"] * 10
    facts = {"protocol": dataclasses.asdict(GREEDY), "data bbh": "d"}
    seen = []
    monkeypatch.setattr(results, "read_again", lambda *a: seen.append(1) or ask.read_again(*a))
    build_results("m", facts, GREEDY, {"bbh": ITEMS}, samples, [tmp_path])
    assert seen


def test_a_row_says_of_which_model_and_data_it_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        records = Records(tmp_path / name, {"model": {"weights": name}, "data bbh": "d1"})
        ask_all(Answers(), ITEMS, GREEDY, [1], records)
    one, two = (pq.read_table(tmp_path / name / "samples").to_pylist() for name in ("one", "two"))
    assert {row["data"] for row in (*one, *two)} == {"d1"}
    assert len({row["model"] for row in one}) == 1
    assert {row["model"] for row in one}.isdisjoint(row["model"] for row in two)
    assert [row["format_ok"] for row in one] == [row["text"] != "mumble" for row in one]


def test_scores_examples_and_pages_say_what_was_answered(tmp_path: Path) -> None:
    """Says A: right for odd items but 5, which says nothing; states B: right for even items."""
    samples = run(tmp_path, Answers())
    results = build_results("m <1>", {"k": "v"}, ORCA, {"bbh": ITEMS}, samples)
    navigate, snarks, average = results.scores["bbh"]["m <1> (orca)"]
    for one in (navigate, snarks, average):
        assert one.accuracy.value == pytest.approx(2 / 6)
        assert one.stated.value == pytest.approx(3 / 6)
        assert one.format_failures == pytest.approx(1 / 6) and one.draws == 2 and one.spread == 0
    assert {(e.task, e.kind) for e in results.examples} == {
        (task, kind) for task in ("navigate", "snarks") for kind in ("right", "wrong", "unparsed")
    }
    save_results(results, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| Navigate | 6 | 55.6 | 68.8 | 46.4 | 57.6 | 33.3 [9.7, 70.0] |" in text
    page = (tmp_path / "report.html").read_text()
    assert "m &lt;1&gt;" in page and "<b>navigate</b>" not in page, "text of others is escaped"
    assert "http" not in page.replace("http-equiv", ""), "it loads nothing"
    HTMLParser().feed(page)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["scores"]["bbh"]["m <1> (orca)"][0]["accuracy"]["value"] == pytest.approx(1 / 3)


def test_several_system_messages_make_a_table_and_two_runs_a_comparison(tmp_path: Path) -> None:
    mine = run(tmp_path / "mine", Answers(), GREEDY, (1, 5, 2))
    assert {s.system_message for s in mine} == {1, 5, 2} and len(mine) == 36
    run(tmp_path / "other", Answers(), Protocol("loglikelihood", "loglikelihood"))
    results = build_results("m", {}, GREEDY, {"bbh": ITEMS}, mine, [tmp_path / "other"])
    averages, ablation, comparison = results.tables
    assert len(averages.rows) == 1
    assert [h for h in ablation.head if "message" in h] == [
        f"m (greedy, message {n})" for n in (1, 5, 2)
    ]
    assert "other (loglikelihood)" in comparison.head
    (_, _, found) = results.comparisons[0]
    # The log-likelihoods say A always: right for all odd items, 5 too.
    assert found[-1].lost == ("bbh/navigate/5", "bbh/snarks/5") and not found[-1].won
    with pytest.raises(UserError, match="is no run of evaluate"):
        build_results("m", {}, GREEDY, {"bbh": ITEMS}, mine, [tmp_path])


def test_only_runs_on_the_same_data_are_compared(tmp_path: Path) -> None:
    """The options of another shuffle have other letters: the ids are the same, the items not."""
    mine = {"model": "m", "protocol": dataclasses.asdict(GREEDY), "data bbh": "1"}
    same = {**mine, "model": "n", "protocol": dataclasses.asdict(ORCA)}
    for name, facts in (("same", same), ("shuffled", {**same, "data bbh": "2"})):
        ask_all(Answers(), ITEMS, ORCA, [1], Records(tmp_path / name, facts))
    samples = ask_all(Answers(), ITEMS, GREEDY, [1], Records(tmp_path / "mine", mine))

    def compared_with(name: str) -> Results:
        return build_results("m", mine, GREEDY, {"bbh": ITEMS}, samples, [tmp_path / name])

    with pytest.raises(UserError, match=r"shuffled answered another bbh \(fingerprint 2, here 1\)"):
        compared_with("shuffled")
    results = compared_with("same")
    assert results.comparisons[0][1] == "same (orca)"
    (note,) = results.notes
    assert "another protocol: name orca (here greedy), temperature 0.7 (here 0.0)" in note
    assert not compared_with("mine").notes


def test_a_part_is_of_every_task_and_of_every_larger_part() -> None:
    small, large = stratified(ITEMS, 0.34), stratified(ITEMS, 0.67)
    assert [one.task for one in small] == ["navigate"] * 2 + ["snarks"] * 2
    assert set(small) < set(large) < set(ITEMS) and stratified(ITEMS, 1) == ITEMS
    assert stratified(list(reversed(ITEMS)), 0.34) == list(reversed(small))
    assert len(stratified(ITEMS, 0.001)) == 2
    for fraction in (0, -1, 1.5, "10%"):
        with pytest.raises(UserError, match="fraction="):
            stratified(ITEMS, fraction)  # type: ignore[arg-type]


def test_system_messages_are_numbers_of_table_2_or_orca_2s() -> None:
    assert check_system_messages([1, 5, 17]) == [1, 5, 17]
    for wrong in ([], [1, 1], [18], ["1"], 1, "1"):
        with pytest.raises(UserError, match="system_message="):
            check_system_messages(wrong)  # type: ignore[arg-type]


def test_protocols_that_cannot_be_are_sentences() -> None:
    for options in (
        {"kind": "guess"}, {"temperature": -1.0}, {"temperature": "hot"}, {"draws": 0},
        {"draws": 1.5}, {"max_new_tokens": 0}, {"seed": -1},
    ):  # fmt: skip
        with pytest.raises(UserError, match=next(iter(options))):
            Protocol("p", **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="every draw would be the same"):
        Protocol("greedy", temperature=0.0, draws=3)
