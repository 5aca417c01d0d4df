"""Asking a model what is not yet in the records."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from orca.answers import given_answer, is_exact_answer
from orca.errors import UserError
from orca.evaluation.engine import Engine, Output, Prompt
from orca.evaluation.extraction import first_capital, stated_label
from orca.evaluation.item import NEVER_SHOWN, Item, Sample
from orca.evaluation.protocol import Protocol
from orca.evaluation.records import Records
from orca.traces.system_messages import NUMBERED_MESSAGES

TELL_EVERY = 10.0  # seconds
Key = tuple[str, int, int]
"""Item, system message, draw."""


def ask_all(
    engine: Engine,
    items: Sequence[Item],
    protocol: Protocol,
    system_messages: Sequence[int],
    records: Records,
) -> list[Sample]:
    """Every answer that the run needs: those of the records, and of the engine what they lack.

    A request that fails is no record: the next run asks it again.

    Raises:
        UserError: every request failed.
    """
    there = [sample for sample in records.read() if sample.finish_reason != "failed"]
    if protocol.kind == "generate":
        there = read_again(there, items)
    known = {key_of(sample): sample for sample in there}
    wanted = _wanted(items, protocol, system_messages)
    missing = {key: item for key, item in wanted.items() if key not in known}
    print(f"{len(wanted):,} answers, {len(wanted) - len(missing):,} of them there", flush=True)
    failed = 0
    try:
        for sample in _told(_samples(engine, missing, protocol), len(missing)):
            known[key_of(sample)] = sample
            if sample.finish_reason == "failed":
                failed += 1
            else:
                records.add(sample)
    finally:
        records.write()
    if failed and failed == len(wanted):
        first = next(sample for sample in known.values() if sample.finish_reason == "failed")
        # A server's message may quote the prompt, in part or escaped.
        error = first.error
        if first.benchmark in NEVER_SHOWN:
            error = f"a message that may quote {first.benchmark}; another benchmark= shows its own"
        raise UserError(f"every request failed, the first with: {error}")
    if failed:
        print(f"{failed:,} requests failed; the same command asks them again", file=sys.stderr)
    return [known[key] for key in wanted]


def read_again(samples: Iterable[Sample], items: Iterable[Item]) -> list[Sample]:
    """The same answers, their texts read by this version: records keep the reading of their day.

    Samples of other items, and those that did not come, stay as they are.
    """
    known = {item.id: item for item in items}
    found = []
    for one in samples:
        if one.item in known:
            capital, stated = _read(known[one.item], one.text, one.finish_reason)
            one = dataclasses.replace(one, first_capital=capital, stated=stated)
        found.append(one)
    return found


def ask(
    engine: Engine, items: Sequence[Item], protocol: Protocol, system_messages: Sequence[int]
) -> Iterator[Sample]:
    """Every answer of the engine, in any order; nothing is kept."""
    return _samples(engine, _wanted(items, protocol, system_messages), protocol)


def check_system_messages(numbers: Sequence[int]) -> list[int]:
    """Numbers of :data:`orca.traces.NUMBERED_MESSAGES`; raises :class:`UserError` for others, or
    for one that is there twice."""
    if isinstance(numbers, (int, str)):
        raise UserError(f"system_message={numbers}: a list, as [1] or [1,5,2]")
    messages = list(numbers)
    if not messages or len(set(messages)) < len(messages):
        raise UserError(f"system_message={messages}: one or several different numbers")
    for number in messages:
        if number not in NUMBERED_MESSAGES:
            raise UserError(f"system_message={messages}: {number!r} must be 1 to 17")
    return messages


def key_of(sample: Sample) -> Key:
    return sample.item, sample.system_message, sample.draw


def seed_of(key: Key, seed: int) -> int:
    """Seed of a draw: depends on nothing else that is asked."""
    digest = hashlib.sha256(f"{seed}:{key[0]}:{key[1]}:{key[2]}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _wanted(
    items: Sequence[Item], protocol: Protocol, system_messages: Sequence[int]
) -> dict[Key, Item]:
    return {
        (item.id, message, draw): item
        for draw in range(protocol.draws)
        for message in system_messages
        for item in items
    }


def _samples(engine: Engine, missing: dict[Key, Item], protocol: Protocol) -> Iterator[Sample]:
    keys = {_text(key): key for key in missing}
    prompts = [
        Prompt(text, NUMBERED_MESSAGES[key[1]], missing[key].prompt, seed_of(key, protocol.seed))
        for text, key in keys.items()
    ]
    if not prompts:
        return
    if protocol.kind == "loglikelihood":
        yield from _most_likely(engine, prompts, {t: missing[k] for t, k in keys.items()}, keys)
        return
    for output in engine.generate(prompts, protocol.temperature, protocol.max_new_tokens):
        key = keys[output.key]
        yield _sample(missing[key], key, seed_of(key, protocol.seed), output)


def _sample(item: Item, key: Key, seed: int, output: Output) -> Sample:
    capital, stated = _read(item, output.text, output.finish_reason)
    return Sample(
        item=item.id,
        benchmark=item.benchmark,
        task=item.task,
        draw=key[2],
        seed=seed,
        system_message=key[1],
        prompt=item.prompt,
        text=output.text,
        finish_reason=output.finish_reason,
        gold=item.gold,
        first_capital=capital,
        stated=stated,
        prompt_tokens=output.prompt_tokens,
        new_tokens=output.new_tokens,
        latency=output.latency,
        error=output.error,
    )


def _read(item: Item, text: str, finish_reason: str) -> tuple[str, str]:
    """The answer by the paper's rule, and the stated one."""
    if finish_reason == "failed" or not item.gold:
        return "", ""
    if item.labels:
        return first_capital(text, item.labels), stated_label(text, item.labels, item.options)
    (gold,) = item.gold
    given = gold if is_exact_answer(text, gold) else given_answer(text)
    return given, given


def _most_likely(
    engine: Engine, prompts: Sequence[Prompt], items: dict[str, Item], keys: dict[str, Key]
) -> Iterator[Sample]:
    """The option whose label is most likely to follow the prompt."""
    for prompt in prompts:
        if not items[prompt.key].labels:
            name = items[prompt.key].benchmark
            raise UserError(f"protocol=loglikelihood is for multiple choice, not for {name}")
    continuations = [[f" {label}" for label in items[prompt.key].labels] for prompt in prompts]
    for text, scores in engine.loglikelihoods(prompts, continuations):
        item, key = items[text], keys[text]
        best = item.labels[max(range(len(scores)), key=scores.__getitem__)]
        listed = " ".join(f"{x}:{y:.4f}" for x, y in zip(item.labels, scores, strict=True))
        yield Sample(
            item.id, item.benchmark, item.task, key[2], 0, key[1], item.prompt, listed, "stop",
            item.gold, best, best,
        )  # fmt: skip


def _text(key: Key) -> str:
    return f"{key[0]}#{key[1]}#{key[2]}"


def _told(samples: Iterator[Sample], total: int) -> Iterator[Sample]:
    """The same samples, with a line on how far it is every ten seconds."""
    start = told = time.monotonic()
    for number, sample in enumerate(samples, 1):
        yield sample
        now = time.monotonic()
        if now - told > TELL_EVERY:
            told, rate = now, number / (now - start)
            print(
                f"{number:,} of {total:,} answers, {rate:.2f}/s, "
                f"{(total - number) / rate / 60:.1f} minutes left",
                file=sys.stderr,
                flush=True,
            )
