"""Fill, displacement and speed of packing on real lengths, for several windows.

    ORCA_SHARED_DATA=… python benchmarks/packing.py

Streams the FLAN chain-of-thought files (33,443 human rationales) through one epoch with SmolLM2's
tokenizer, then packs the same lengths with other windows, and with next-fit (the order-keeping
packer of other projects) for comparison. Packing is timed alone, on one core, without tokenisation.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from train_step_cpu import SMOLLM2, TEMPLATE, cpu_name

from orca.stream import (
    DataCard,
    Encoder,
    Example,
    Pack,
    PackStream,
    Shuffle,
    StreamPack,
    StreamState,
    pack_window,
)
from orca.traces import TraceSource

CAPACITY = 2048
REPEATS = 5

Packer = Callable[[list[Example], int], list[Pack]]


def windowed(examples: list[Example], window: int) -> list[Pack]:
    """One epoch of packs."""
    packs: list[Pack] = []
    carried = None
    for start in range(0, len(examples), window):
        last = start + window >= len(examples)
        done, carried = pack_window(examples[start : start + window], CAPACITY, carried, last)
        packs += done
    return packs


def next_fit(examples: list[Example], _: int) -> list[Pack]:
    """Keep the order, close a pack when the next example does not fit."""
    packs, room = [Pack()], CAPACITY
    for example in examples:
        if len(example.tokens) > room:
            packs.append(Pack())
            room = CAPACITY
        packs[-1].examples.append(example)
        room -= len(example.tokens)
    return packs


def measure(examples: list[Example], packer: Packer, window: int) -> tuple[float, int, int, float]:
    """Fill, displacement median and maximum, examples per second (median of repeats)."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        packs = packer(examples, window)
        seconds.append(time.perf_counter() - started)
    card, first = DataCard("", CAPACITY, {}), 0
    for pack in packs:
        card.add_pack(StreamPack(pack, StreamState(), 0.0, first))
        first += len(pack.examples)
    figures = card.to_dict()
    moved = figures["displacement"]
    return figures["fill"], moved["p50"], moved["p100"], len(examples) / statistics.median(seconds)


def main() -> None:
    """Measure and write the result file."""
    shared = os.environ.get("ORCA_SHARED_DATA")
    if not shared:
        sys.exit("ORCA_SHARED_DATA must name the directory that holds flan_cot/*_train.tsv")
    tokenizer = SMOLLM2.tokenizer()
    TEMPLATE.prepare(tokenizer)
    source = TraceSource("flan_cot/*_train.tsv", "flan_cot", shared)
    stream = PackStream(
        source,
        Encoder(tokenizer, TEMPLATE, CAPACITY),
        Shuffle(),
        epochs=1,
        seed=0,
        capacity=CAPACITY,
        window=256,
    )
    started = time.perf_counter()
    card, examples = DataCard("FLAN CoT", CAPACITY, {}), []
    for item in stream:
        card.add_pack(item)
        examples += item.pack.examples
    streamed = len(examples) / (time.perf_counter() - started)
    examples.sort(key=lambda example: example.rank)
    totals = card.to_dict()["totals"]
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("numpy", "tokenizers"))
    lines = [
        "# Packing FLAN chain-of-thought rationales",
        "",
        "- Command: `python benchmarks/packing.py` with `ORCA_SHARED_DATA` set",
        f"- Hardware: {cpu_name()}; packing uses one core.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- Data: {totals['examples']:,} examples, {totals['tokens']:,} tokens, "
        f"{totals['target_tokens']:,} targets; capacity {CAPACITY}; {REPEATS} repeats, median.",
        f"- The whole stream with reading and tokenising, no workers: {streamed:,.0f} examples/s.",
        "",
        "| packer | fill | places moved, median | most | examples/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    cases: list[tuple[str, Packer, int]] = [("next-fit", next_fit, 1)]
    cases += [(f"windows of {w}", windowed, w) for w in (64, 256, 1000, len(examples))]
    for name, packer, window in cases:
        fill, median, most, speed = measure(examples, packer, window)
        lines += [f"| {name} | {fill:.2%} | {median} | {most} | {speed:,.0f} |"]
    text = "\n".join(lines) + "\n"
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    stamp = datetime.date.today().isoformat()
    file = Path(__file__).parent / "results" / f"packing_{machine}_{stamp}.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
