"""The data module: parts, validation, state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ORCA_TEMPLATE, compose_config
from hydra.utils import instantiate

from orca.errors import UserError
from orca.stream import StepLoader, TraceDataModule
from orca.traces import TraceSource


def build(tokenizer: Any, *overrides: str, part: str = "chatgpt") -> TraceDataModule:
    config = compose_config(*overrides)
    return instantiate(config.data, _partial_=True)(
        part=part, epochs=1, tokenizer=tokenizer, template=ORCA_TEMPLATE
    )


def test_openorca_files_are_streamed_and_held_out_queries_agree_between_stages(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of OpenOrca's form under its two file names; stage 2's queries are some of stage 1's."""
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))
    rows = [
        {"id": f"flan.{n}", "system_prompt": "", "question": f"Q{n}", "response": f"R{n}"}
        for n in range(400)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "3_5M-GPT3_5-Augmented.parquet")
    pq.write_table(pa.Table.from_pylist(rows[::-2]), tmp_path / "1M-GPT4-Augmented.parquet")
    options = ["data=openorca", f"data.path={tmp_path}", "data.held_out_fraction=0.1"]
    trained, held_out = {}, {}
    for part in ("chatgpt", "gpt4"):
        module = build(tokenizer, *options, "data.num_workers=0", part=part)
        held_out[part] = {trace.query for trace in module.held_out_traces()}
        trained[part] = {e.id for item in module.stream() for e in item.pack.examples}
        assert next(iter(module.held_out_traces())).teacher == part
        assert next(iter(module.held_out_traces())).sub_collection == "flan2021"
    assert held_out["gpt4"] < held_out["chatgpt"] and 15 < len(held_out["chatgpt"]) < 70
    ids = {f"flan.{query[1:]}" for query in held_out["chatgpt"]}
    assert not ids & (trained["chatgpt"] | trained["gpt4"])
    assert len(trained["chatgpt"]) + len(ids) == 400


def test_validation_packs_are_shared_by_ranks_without_repeats(tokenizer: Any) -> None:
    module = build(tokenizer, "data.held_out_examples=30")
    packs = sum(map(len, module.held_out_packs().values()))
    assert packs > 3
    whole = sum(int((batch.labels != -100).sum()) for batch in module.val_dataloader())
    for world_size in (2, 3, packs + 1):
        counted = 0
        for rank in range(world_size):
            module.trainer = type(
                "Ranks", (), {"world_size": world_size, "global_rank": rank}
            )()  # stands in for a Trainer of several ranks
            loader = module.val_dataloader()
            assert len(loader) == -(-packs // world_size)
            counted += sum(int((batch.labels != -100).sum()) for batch in loader)
        assert counted == whole


def test_state_goes_on_with_the_next_step_and_another_stream_is_refused(tokenizer: Any) -> None:
    options = ["data.max_tokens=2048", "data.global_batch=3"]
    module = build(tokenizer, *options)
    steps = list(StepLoader(module.stream(), global_batch=3, micro_batch=1))
    for step in steps[:4]:
        module.step_done(step)
    resumed = build(tokenizer, *options)
    resumed.load_state_dict(module.state_dict())
    following = next(iter(resumed.train_dataloader()))
    assert following.example_ids == steps[4].example_ids
    assert following.progress == pytest.approx(steps[4].progress)
    other = build(tokenizer, *options, "data.seed=3", "curriculum=length")
    with pytest.raises(UserError, match=r"curriculum: shuffle → by length.*seed: 17 → 3"):
        other.load_state_dict(module.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["data.window=0"], r"data\.window=0"),
        (["data.held_out_fraction=1.5"], r"held_out_fraction=1\.5"),
        (["data.held_out_fraction=0.1"], "exclude each other"),
        (["data.format=parquet"], "Known: trace"),
    ],
)
def test_a_wrong_option_is_named(tokenizer: Any, options: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(tokenizer, *options)


def test_a_first_step_that_spans_epochs_passes_the_audit(tokenizer: Any) -> None:
    """An example's place means another row in every epoch; its number does not."""
    config = compose_config("data.global_batch=4096", "curriculum=shuffle")
    module = instantiate(config.data, _partial_=True)(
        part="chatgpt", epochs=2, tokenizer=tokenizer, template=ORCA_TEMPLATE
    )
    items = list(module.stream())
    middle = next(i for i, item in enumerate(items) if item.state.epoch == 1)
    spanning = items[middle - 3 : middle + 3]
    assert {item.state.epoch for item in spanning} == {0, 1}
    findings = module.audit(spanning)
    assert findings.faults == () and findings.examples > 6


def test_a_part_that_the_data_lacks_is_named(tokenizer: Any) -> None:
    with pytest.raises(
        UserError, match="the stage wants part 'bard'; data=sample has chatgpt, gpt4"
    ):
        build(tokenizer, part="bard")


def test_sources_open_nothing_before_they_are_needed() -> None:
    source = TraceSource("/nowhere/at/all.jsonl", "trace")
    with pytest.raises(UserError, match=r"/nowhere/at/all\.jsonl"):
        len(source)


def test_a_student_sees_another_system_message_or_the_answers_alone(tokenizer: Any) -> None:
    """What is replaced is replaced in training and in validation, and counts as other data."""
    plain = build(tokenizer)
    trace = plain.held_out_traces()[0]
    assert any(plain.source[number].system_message for number in range(20))
    erased = build(tokenizer, "data.system_message='Be brief.'")
    assert {erased.source[n].system_message for n in range(20)} == {"Be brief."}
    assert {one.system_message for one in erased.held_out_traces()} == {"Be brief."}
    assert [erased.source[n].response for n in range(20)] == [
        plain.source[n].response for n in range(20)
    ]
    without = build(tokenizer, "data.system_message=''")
    assert {without.source[n].system_message for n in range(20)} == {""}
    answers = build(tokenizer, "data.answers_only=true")
    assert answers.held_out_traces()[0].response == f"The answer is {trace.gold_answer}."
    assert answers.source[0].response == f"The answer is {plain.source[0].gold_answer}."
    assert answers.source[0].system_message == plain.source[0].system_message
    prints = {one.source.fingerprint for one in (plain, erased, without, answers)}
    assert len(prints) == 4


def test_answers_alone_need_gold_answers(tmp_path: Path, tokenizer: Any) -> None:
    row = {"query": "Why?", "response": "Because."}
    (tmp_path / "chatgpt.jsonl").write_text(json.dumps(row))
    module = build(
        tokenizer, "data=local", f"data.path={tmp_path}", "data.format=trace",
        "data.answers_only=true", "data.held_out_fraction=0", "data.num_workers=0",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"chatgpt\.jsonl, row 1: .*gold_answer"):
        list(module.stream())


def test_without_isolation_a_pack_is_one_sequence_with_the_same_targets(tokenizer: Any) -> None:
    isolated, joined = (
        next(iter(build(tokenizer, f"data.isolate={value}").train_dataloader())).micro_batches[0]
        for value in ("true", "false")
    )
    assert len(isolated.boundaries) >= 3, "two examples in a pack"
    assert joined.boundaries.tolist() == [0, int(isolated.boundaries[-1])]
    length = joined.input_ids.shape[1]
    assert joined.position_ids[0].tolist() == list(range(length)) and joined.longest == length
    assert joined.input_ids.equal(isolated.input_ids) and joined.labels.equal(isolated.labels)
    module = build(tokenizer, "data.isolate=false")
    assert "none" in module.facts()["isolation"]
    assert "isolation" not in build(tokenizer).facts()
    counts = [(len(b.boundaries) - 1, len(b.example_ids)) for b in module.val_dataloader()]
    assert all(boundaries == examples for boundaries, examples in counts)
    assert max(examples for _, examples in counts) > 1, "validation is always isolated"


def test_without_packing_every_example_is_a_pack_in_the_curriculums_order(tokenizer: Any) -> None:
    module = build(tokenizer, "data.packing=false", "curriculum=given", "data.global_batch=4")
    items = list(module.stream())
    assert [len(item.pack.examples) for item in items] == [1] * 840
    numbers = [item.pack.examples[0].number for item in items]
    assert numbers == list(range(840))
    state = items[99].state
    again = [item.pack.examples[0].number for item in module.stream(state)]
    assert again == numbers[100:]
    steps = list(module.train_dataloader())
    assert len(steps) == 210 and all(len(step.packs) == 4 for step in steps)
