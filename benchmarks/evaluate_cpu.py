"""Items per processor second of engine `hf` against lm-eval's `hf` model, on the CPU.

    pip install -e '.[benchmark]'
    python benchmarks/evaluate_cpu.py --rounds 3 --every 3 --per-task 3

Both answer the same items (AGIEval and BBH prompts of the Orca form, the first ones of tasks, by
ORCA_SHARED_DATA) with SmolLM2-135M-Instruct in float32, greedily, with the same most new tokens,
in one process with the same threads. They take turns, the first one too. lm-eval gets the batch
size that is best for it on the same items. Loading is not counted, encoding is. Processor time is
the measure, since other programs on the machine change it less than the clock's; with more than one
thread it counts waiting for each other. The texts are compared, and the log-likelihoods of options
on some of the items. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_step_cpu import cpu_name

from orca.decoding.prefix_tree import shared_length
from orca.evaluation.engine import Prompt
from orca.evaluation.hf_engine import HFEngine

LENGTHS = (32, 128)
"""Most new tokens of an answer."""

OPTIONS = [" A", " B", " C", " D", " (A) is the answer", " (B) is the answer"]
"""Continuations whose log-likelihoods are compared."""


def read_items(every: int, per_task: int) -> list[str]:
    """The first prompts of every n-th task."""
    shared = os.environ.get("ORCA_SHARED_DATA")
    if not shared:
        raise SystemExit("ORCA_SHARED_DATA must name the directory with orca_eval_prompts")
    place, items = Path(shared) / "orca_eval_prompts", []
    files = sorted([*place.glob("agieval/*.jsonl"), *place.glob("bbh_mc_orca/*.jsonl")])
    for file in files[::every]:
        lines = file.read_text(encoding="utf-8").splitlines()[:per_task]
        items += [json.loads(line)["question"] for line in lines]
    return items


class Ours:
    """This project's engine."""

    def __init__(self, engine: HFEngine, items: list[str]) -> None:
        self.engine = engine
        self.prompts = [Prompt(str(i), "", item) for i, item in enumerate(items)]

    def generate(self, length: int) -> tuple[list[str], int]:
        """Texts, and new tokens in all."""
        outputs = {o.key: o for o in self.engine.generate(self.prompts, 0.0, length)}
        found = [outputs[prompt.key] for prompt in self.prompts]
        return [output.text for output in found], sum(output.new_tokens for output in found)

    def loglikelihoods(self, count: int) -> list[float]:
        prompts = self.prompts[:count]
        found = dict(self.engine.loglikelihoods(prompts, [OPTIONS] * count))
        return [score for prompt in prompts for score in found[prompt.key]]


class LmEval:
    """lm-eval's model class on the same weights."""

    def __init__(self, directory: Path, items: list[str], batch: int) -> None:
        from lm_eval.models.huggingface import HFLM

        self.model = HFLM(
            pretrained=str(directory), device="cpu", dtype="float32", batch_size=batch
        )
        self.contexts = [
            self.model.apply_chat_template([{"role": "user", "content": item}]) for item in items
        ]

    def generate(self, length: int) -> list[str]:
        settings = {"until": [], "max_gen_toks": length, "do_sample": False}
        requests = [self._request("generate_until", (c, settings)) for c in self.contexts]
        return self.model.generate_until(requests, disable_tqdm=True)

    def loglikelihoods(self, count: int) -> list[float]:
        pairs = [(context, option) for context in self.contexts[:count] for option in OPTIONS]
        requests = [self._request("loglikelihood", pair) for pair in pairs]
        return [score for score, _ in self.model.loglikelihood(requests, disable_tqdm=True)]

    def _request(self, kind: Any, arguments: Any) -> Any:
        from lm_eval.api.instance import Instance

        return Instance(kind, {}, arguments, 0)


def seconds(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor time, time, result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    return time.process_time() - processor, time.perf_counter() - clock, result


def shared_part(engine: HFEngine, prompts: list[Prompt]) -> float:
    """Share of the prompts' tokens that the next prompt in sorted order begins with."""
    ids = sorted(engine.encode([engine.render(prompt) for prompt in prompts]))
    pairs = itertools.pairwise(np.asarray(one) for one in ids)
    return sum(shared_length(a, b) for a, b in pairs) / sum(map(len, ids))


def main() -> None:
    """Run the rounds and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--per-task", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    items, load = read_items(arguments.every, arguments.per_task), [os.getloadavg()[0]]
    engine = HFEngine("smollm2_135m", dtype="float32", device="cpu")
    ours = Ours(engine, items)
    scan: dict[int, float] = {}
    for batch in arguments.batches:
        harness = LmEval(engine.directory, items, batch)
        scan[batch] = len(items) / seconds(lambda: harness.generate(LENGTHS[0]))[0]  # noqa: B023
        print(f"lm-eval, batches of {batch}: {scan[batch]:.3f} items a second", flush=True)
    harness = LmEval(engine.directory, items, max(scan, key=scan.__getitem__))
    rates: dict[tuple[int, str], list[float]] = {}
    clocks: dict[tuple[int, str], list[float]] = {}
    texts: dict[tuple[int, str], Any] = {}
    for number in range(arguments.rounds):
        for length in LENGTHS:
            pair: list[tuple[str, Any]] = [("ours", ours), ("lm-eval", harness)]
            for name, runner in pair if number % 2 == 0 else reversed(pair):
                took, clock, result = seconds(lambda: runner.generate(length))  # noqa: B023
                texts[length, name] = result
                rates.setdefault((length, name), []).append(len(items) / took)
                clocks.setdefault((length, name), []).append(len(items) / clock)
                print(
                    f"round {number + 1}, {length} {name}: {took:.1f} s, by the clock {clock:.1f}"
                )
    count = min(16, len(items))
    pairs = zip(ours.loglikelihoods(count), harness.loglikelihoods(count), strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    load.append(os.getloadavg()[0])
    shared = shared_part(engine, ours.prompts)
    text = report(arguments, items, shared, scan, rates, clocks, texts, difference, load)
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    stamp = datetime.date.today().isoformat()
    file = Path(arguments.out) / f"evaluate_cpu_{machine}_{stamp}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


def report(
    arguments: argparse.Namespace,
    items: list[str],
    shared: float,
    scan: dict[int, float],
    rates: dict[tuple[int, str], list[float]],
    clocks: dict[tuple[int, str], list[float]],
    texts: dict[tuple[int, str], Any],
    difference: float,
    load: list[float],
) -> str:
    """The result file."""
    packages = ("torch", "transformers", "lm-eval")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    scanned = ", ".join(f"{batch}: {rate:.3f}" for batch, rate in scan.items())
    best = max(scan, key=scan.__getitem__)
    lines = [
        "# Evaluation on the CPU: items per processor second",
        "",
        f"- Command: `python benchmarks/evaluate_cpu.py --rounds {arguments.rounds} --every "
        f"{arguments.every} --per-task {arguments.per_task} --batches "
        f"{' '.join(map(str, arguments.batches))} --threads {arguments.threads}` with "
        "`ORCA_SHARED_DATA` set",
        f"- Hardware: {cpu_name()}, {arguments.threads} thread(s). Load of the machine (1 minute) "
        f"before {load[0]:.1f}, after {load[1]:.1f}: other programs ran beside.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- Model: SmolLM2-135M-Instruct, float32, greedy. Data: the first {arguments.per_task} "
        f"items of every {arguments.every}. AGIEval or BBH task in `orca_eval_prompts`, "
        f"{len(items)} in all; {shared:.0%} of their tokens are beginnings that another one has.",
        f"- Protocol: {arguments.rounds} rounds, the two in turn. lm-eval's batch size: {best}, "
        f"the best at {LENGTHS[0]} new tokens (items per second, one run each: {scanned}).",
        "",
        "| most new tokens | engine hf, median (each round) | lm-eval, median (each round) "
        "| ratio, median (each round) | equal texts | new tokens of an answer, mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for length in LENGTHS:
        mine, theirs = rates[length, "ours"], rates[length, "lm-eval"]
        (written, tokens), other = texts[length, "ours"], texts[length, "lm-eval"]
        equal = sum(a == b for a, b in zip(written, other, strict=True))
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        cells = [f"**{_all(ratios, 2)}", f"{equal} of {len(items)}", f"{tokens / len(items):.1f}"]
        cells[0] = cells[0].replace(" ", "** ", 1)
        lines.append(f"| {length} | {_all(mine)} | {_all(theirs)} | " + " | ".join(cells) + " |")
    compared = min(16, len(items))
    by_clock = "; ".join(
        f"{length}: {_all(clocks[length, 'ours'])} and {_all(clocks[length, 'lm-eval'])}"
        for length in LENGTHS
    )
    lines += [
        "",
        f"Items per second by the clock, engine hf and lm-eval: {by_clock}.",
        "",
        f"Log-likelihoods of {len(OPTIONS)} continuations on the first {compared} items: largest "
        f"difference {difference:.1e} nats.",
        "",
    ]
    return "\n".join(lines)


def _all(values: list[float], digits: int = 3) -> str:
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.median(values):.{digits}f} ({each})"


if __name__ == "__main__":
    main()
