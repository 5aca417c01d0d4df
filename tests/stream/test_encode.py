"""Tokens and target masks: the response and EOS are targets, long queries lose their left."""

from __future__ import annotations

from typing import Any

from conftest import ORCA_TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st

from orca.stream import IGNORED, Encoder, Example, Pack, TooLong, collate
from orca.traces import Trace


def encode_one(encoder: Encoder, *parts: str) -> Example | TooLong:
    (example,) = encoder.encode([Trace("i", *parts)])
    return example


def test_targets_are_the_response_and_eos(encoder: Encoder, tokenizer: Any) -> None:
    example = encode_one(encoder, "S", "Q", "the response")
    assert isinstance(example, Example)
    targets = example.tokens[example.num_prompt :].tolist()
    assert tokenizer.decode(targets) == "the response</s>"
    assert tokenizer.decode(example.tokens[: example.num_prompt].tolist()).endswith("Assistant:\n")


def test_a_long_query_is_cut_at_its_left_and_nothing_else_is(tokenizer: Any) -> None:
    query = "0123456789" * 30
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 200)
    example = encode_one(encoder, "System", query, "response")
    assert isinstance(example, Example)
    text = tokenizer.decode(example.tokens.tolist())
    assert len(example.tokens) == 200 and example.truncated > 0
    before, _, rest = text.partition("### Human:\n")
    kept, _, after = rest.partition("\n\n### Assistant:\n")
    assert before == "### System:\nSystem\n\n" and after == "response</s>"
    assert kept == query[example.truncated :]


def test_a_response_that_does_not_fit_is_refused(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 100)
    assert isinstance(encode_one(encoder, "", "q", "r" * 100), TooLong)
    room = 100 - len("### Human:\n\n\n### Assistant:\n") - 1
    fits = encode_one(encoder, "", "q" * 40, "r" * (room - 16))
    assert isinstance(fits, Example) and fits.truncated == 40 - 16
    # Less than the least share of the query would be left.
    assert isinstance(encode_one(encoder, "", "q" * 40, "r" * (room - 15)), TooLong)
    assert isinstance(encode_one(encoder, "", "q", "r" * room), TooLong)


def test_a_cut_query_begins_with_a_whole_character(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 101)
    for room in range(8):
        example = encode_one(encoder, "", "🐋" * 40, "r" * (20 + room))
        assert isinstance(example, Example)
        text = tokenizer.decode(example.tokens.tolist())
        assert "\ufffd" not in text and "🐋" in text and len(example.tokens) <= 101


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.text(min_size=1, max_size=200), st.text(min_size=1)),
        min_size=1,
        max_size=6,
    )
)
def test_labels_are_the_next_token_of_the_same_example(tokenizer: Any, parts: list) -> None:
    """Reference: the mask written out per example, from the lengths of its texts alone."""
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 150)
    traces = [
        Trace(f"i{n}", system, query, response.strip() or "r")
        for n, (system, query, response) in enumerate(parts)
    ]
    examples = [e for e in encoder.encode(traces) if isinstance(e, Example)]
    if not examples:
        return
    batch = collate([Pack(examples)])
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    at = 0
    for example in examples:
        trace = next(t for t in traces if t.id == example.id)
        length = len(example.tokens)
        size = len(tokenizer(trace.response, add_special_tokens=False)["input_ids"])
        spelled = example.spelled_special
        wanted = [IGNORED] * (length - size - 2) + ids[at + length - size - 1 : at + length]
        assert spelled or labels[at : at + length] == [*wanted, IGNORED]
        assert batch.position_ids[0, at : at + length].tolist() == list(range(length))
        assert ids[at + length - 1] == tokenizer.eos_token_id
        at += length
    assert at == len(ids) and batch.boundaries[-1] == at
