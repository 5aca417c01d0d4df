"""The audit finds each fault that it looks for, and packs from the stream have none."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ORCA_TEMPLATE, rows_of_length

from orca.stream import Encoder, Pack, PackStream, Shuffle, audit_packs, batches, show_pack
from orca.traces import Trace

LENGTHS = [30, 60, 90, 40]


def traces_of(packs: list[Pack]) -> dict[int, Trace]:
    """The traces by number, made again from the example's ids."""
    rows = {example.number: int(example.id[1:]) for pack in packs for example in pack.examples}
    return {row: Trace(f"t{n}", "", f"q{n}", "r" * LENGTHS[n]) for row, n in rows.items()}


@pytest.fixture
def packs(make_source, encoder: Encoder) -> list[Pack]:
    source = make_source(rows_of_length(LENGTHS))
    stream = PackStream(source, encoder, Shuffle(), epochs=1, seed=0, capacity=512, window=4)
    return [item.pack for item in stream]


def test_packs_of_the_stream_have_no_fault(packs: list[Pack], encoder: Encoder) -> None:
    findings = audit_packs(packs, traces_of(packs), encoder)
    assert findings.faults == () and findings.examples == 4
    assert findings.targets == 30 + 60 + 90 + 40 + 4  # the responses and an EOS each


@pytest.mark.parametrize("moved", [-20, -1, 1, 10])
def test_a_boundary_in_the_wrong_place_is_found(
    packs: list[Pack], encoder: Encoder, moved: int
) -> None:
    packs[0].examples[0].num_prompt += moved
    faults = audit_packs(packs, traces_of(packs), encoder).faults
    assert any("do not read as the response" in fault for fault in faults)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda b: b.position_ids.copy_(b.position_ids + 1), "positions do not restart"),
        (lambda b: b.labels.fill_(-100), "target mask"),
        (lambda b: b.labels.copy_(b.input_ids), "target mask"),
        (lambda b: b.labels.add_(b.labels != -100), "a label is not the next token"),
    ],
)
def test_a_planted_fault_is_found(
    packs: list[Pack], encoder: Encoder, monkeypatch: pytest.MonkeyPatch, fault: Any, words: str
) -> None:
    collate = batches.collate

    def faulty(chosen: list[Pack]) -> Any:
        batch = collate(chosen)
        fault(batch)
        return batch

    monkeypatch.setattr("orca.stream.audit.collate", faulty)
    findings = audit_packs(packs, traces_of(packs), encoder)
    assert findings.faults and words in findings.faults[0]


def test_a_missing_eos_and_an_over_full_pack_are_found(packs: list[Pack], encoder: Encoder) -> None:
    packs[0].examples[0].tokens[-1] = 5
    small = Encoder(encoder.tokenizer, ORCA_TEMPLATE, 100)
    faults = audit_packs(packs, traces_of(packs), small).faults
    assert any("EOS" in fault for fault in faults) and any("exceeds" in fault for fault in faults)


def test_a_pack_is_shown_with_its_targets_marked(packs: list[Pack], tokenizer: Any) -> None:
    text = show_pack(packs[0], tokenizer, colour=False)
    assert text.count("⟦") == text.count("</s>⟧") == len(packs[0].examples)
