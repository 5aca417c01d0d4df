"""The stream is the same for any workers, ranks and restarts, and loses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ORCA_TEMPLATE, rows_of_length

from orca.errors import UserError
from orca.stream import (
    DataCard,
    Encoder,
    HeldOut,
    PackStream,
    Shuffle,
    StepLoader,
    StreamPack,
    StreamState,
)
from orca.stream.windows import query_hash
from orca.traces import TraceSource

LENGTHS = np.random.default_rng(1).integers(1, 220, 300).tolist()


def make_stream(source: TraceSource, tokenizer: Any, **changes: Any) -> PackStream:
    options: dict[str, Any] = {"epochs": 2, "seed": 7, "capacity": 256, "window": 32}
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 256)
    return PackStream(source, encoder, Shuffle(), **{**options, **changes})


def content(items: Iterable[StreamPack]) -> list[tuple]:
    return [
        (tuple(e.id for e in item.pack.examples), item.state, item.first_rank) for item in items
    ]


@pytest.fixture
def source(make_source) -> TraceSource:
    return make_source(rows_of_length(LENGTHS))


def test_the_number_of_workers_changes_nothing(source: TraceSource, tokenizer: Any) -> None:
    reference = content(make_stream(source, tokenizer))
    assert len(reference) > 100
    for workers in (1, 2, 4):
        assert content(make_stream(source, tokenizer, num_workers=workers)) == reference


def test_every_trace_is_streamed_once_an_epoch(source: TraceSource, tokenizer: Any) -> None:
    items = list(make_stream(source, tokenizer))
    for epoch in (0, 1):
        ids = [e.id for i in items if i.state.epoch == epoch for e in i.pack.examples]
        assert sorted(ids) == sorted(f"t{n}" for n in range(300))
    assert [i.examples_read for i in items] == sorted(i.examples_read for i in items)
    assert items[-1].examples_read == 600


def test_part_of_an_epoch_is_the_beginning_of_its_order(
    source: TraceSource, tokenizer: Any
) -> None:
    whole = [i for i in make_stream(source, tokenizer) if i.state.epoch == 1]
    items = list(make_stream(source, tokenizer, epochs=1.5))
    begun = [i for i in items if i.state.epoch == 1]
    order = Shuffle().order(source, 7, 1)
    ids = {e.id for i in begun for e in i.pack.examples}
    assert ids == {f"t{n}" for n in order[:150]}
    # Packs before the last whole window (4 of 32 examples) are those of two whole epochs.
    same = [i for i in begun if i.state.window < 3]
    assert len(same) > 10
    assert content(same) == content(whole[: len(same)])
    assert items[-1].examples_read == 450
    state = items[-3].state
    again = list(make_stream(source, tokenizer, epochs=1.5, state=state))
    assert content(again) == content(items[-2:])


def test_resuming_at_any_pack_goes_on_with_the_same_packs(
    source: TraceSource, tokenizer: Any
) -> None:
    reference = content(make_stream(source, tokenizer))
    for at in range(0, len(reference), 7):
        state = StreamState.from_dict(reference[at][1].to_dict())
        assert content(make_stream(source, tokenizer, state=state)) == reference[at + 1 :]


def test_the_card_of_a_resumed_stream_is_the_card_of_an_unbroken_one(
    source: TraceSource, tokenizer: Any
) -> None:
    def card_of(items: list) -> DataCard:
        card = DataCard("t", 256, {})
        for item in items:
            card.add_pack(item)
        return card

    whole = list(make_stream(source, tokenizer))
    cut = len(whole) // 3
    first = card_of(whole[:cut])
    resumed = DataCard("t", 256, {})
    resumed.load_state_dict(first.state_dict())
    for item in make_stream(source, tokenizer, state=whole[cut - 1].state):
        resumed.add_pack(item)
    assert resumed.to_dict() == card_of(whole).to_dict()
    assert resumed.to_dict()["totals"]["read"] == 600


def test_no_example_moves_further_than_the_window(source: TraceSource, tokenizer: Any) -> None:
    card = DataCard("t", 256, {})
    for item in make_stream(source, tokenizer):
        card.add_pack(item)
    moved = card.to_dict()["displacement"]
    assert 0 < moved["p50"] <= moved["p100"] <= 31


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_each_global_batch_without_loss(
    source: TraceSource, tokenizer: Any, world_size: int
) -> None:
    loaders = [
        StepLoader(
            make_stream(source, tokenizer, epochs=1),
            global_batch=12,
            micro_batch=2,
            world_size=world_size,
            rank=rank,
        )
        for rank in range(world_size)
    ]
    steps = list(zip(*loaders, strict=True))
    for ranks in steps:
        rounds = {len(batch.micro_batches) for batch in ranks}
        assert len(rounds) == 1  # or ranks would wait for each other for ever
        targets = sum(
            int((micro.labels != -100).sum()) for batch in ranks for micro in batch.micro_batches
        )
        assert {batch.num_targets for batch in ranks} == {targets}
    ids = [i for ranks in steps for i in ranks[0].example_ids]
    assert sorted(ids) == sorted(f"t{n}" for n in range(300))
    assert len({len(r[0].packs) for r in steps}) > 1  # the last global batch is a short one


def test_time_spent_waiting_for_data_leaves_out_the_time_of_the_consumer(
    source: TraceSource, tokenizer: Any
) -> None:
    loader = StepLoader(make_stream(source, tokenizer, epochs=1), global_batch=24, micro_batch=1)
    started, waits = time.perf_counter(), []
    for batch in loader:
        waits.append(batch.wait_seconds)
        time.sleep(0.05)
    elapsed = time.perf_counter() - started
    assert len(waits) > 3 and min(waits) > 0
    assert sum(waits) <= elapsed - 0.05 * len(waits)


def test_held_out_queries_never_train_and_a_copy_of_a_query_is_held_out_too(
    make_source, tokenizer: Any
) -> None:
    rows = rows_of_length([20] * 200)
    for number, row in enumerate(rows):
        row["query"] = f"question {number % 100}"
    source = make_source(rows)
    stream = make_stream(source, tokenizer, epochs=1, held_out=HeldOut(0.2))
    trained = {int(e.id[1:]) % 100 for item in stream for e in item.pack.examples}
    held_out = {n for n in range(100) if HeldOut(0.2).has(f"question {n}")}
    assert trained == set(range(100)) - held_out and 8 <= len(held_out) <= 35


def test_queries_of_a_validation_file_are_not_trained_on(make_source, tokenizer: Any) -> None:
    source = make_source(rows_of_length([20] * 10))
    held_out = HeldOut(queries=frozenset({query_hash("q3 "), query_hash("q7")}))
    stream = make_stream(source, tokenizer, epochs=1, held_out=held_out)
    items = list(stream)
    assert len({e.id for i in items for e in i.pack.examples} & {"t3", "t7"}) == 0
    assert sum(w.num_held_out for i in items for w in i.windows) == 2


def test_a_stream_without_any_example_says_why(make_source, tokenizer: Any) -> None:
    rows = [{"query": "q", "response": ""}] * 5
    stream = make_stream(make_source(rows), tokenizer, epochs=1, on_bad_row="skip")
    with pytest.raises(UserError, match=r"5 rows read, 0 held out, dropped {'empty_response': 5}"):
        list(stream)


def bad_rows(make_source) -> TraceSource:
    rows = rows_of_length([20] * 60)
    rows[40]["response"] = " "
    rows[50]["response"] = "r" * 400
    return make_source(rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_row_stops_the_stream_with_file_and_row(
    make_source, tokenizer: Any, workers: int
) -> None:
    stream = make_stream(bad_rows(make_source), tokenizer, num_workers=workers)
    with pytest.raises(UserError, match=r"rows\.jsonl, row 41: the response .* is empty"):
        list(stream)


def test_skipped_rows_are_counted_and_listed(make_source, tokenizer: Any, tmp_path: Path) -> None:
    card = DataCard("t", 256, {})
    stream = make_stream(bad_rows(make_source), tokenizer, epochs=1, on_bad_row="skip")
    for item in stream:
        card.add_pack(item)
    figures = card.to_dict()
    assert figures["dropped"] == {"empty_response": 1, "response_too_long": 1}
    assert {row["where"].split(", ")[-1] for row in figures["dropped_rows"]} == {"row 41", "row 51"}
    assert figures["totals"]["examples"] == 58 and figures["totals"]["read"] == 60
    card.save(tmp_path)
    assert "row 41: the response" in (tmp_path / "data_card.md").read_text()
