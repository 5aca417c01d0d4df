"""Items per second of engine `hf` against lm-eval's `hf` model, on the CPU.

    pip install -e '.[benchmark]'
    python benchmarks/evaluate_cpu.py --rounds 3 --per-task 2

Both answer the same items (AGIEval and BBH prompts of the Orca form, the first ones of every task,
by ORCA_SHARED_DATA) with SmolLM2-135M-Instruct in float32, greedily, with the same most new tokens,
in one process with the same threads. They take turns, the first one too. lm-eval gets the batch
size that is fastest for it on the same items. Loading is not counted, encoding is. The texts are
compared, and the log-likelihoods of options on some of the items. Results go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from train_step_cpu import cpu_name

from orca.evaluation.engine import Prompt
from orca.evaluation.hf_engine import HFEngine

LENGTHS = (32, 128)
"""Most new tokens of an answer."""

OPTIONS = [" A", " B", " C", " D", " (A) is the answer", " (B) is the answer"]
"""Continuations whose log-likelihoods are compared."""


def read_items(per_task: int) -> list[str]:
    """The first prompts of every task."""
    shared = os.environ.get("ORCA_SHARED_DATA")
    if not shared:
        raise SystemExit("ORCA_SHARED_DATA must name the directory with orca_eval_prompts")
    place, items = Path(shared) / "orca_eval_prompts", []
    for file in sorted([*place.glob("agieval/*.jsonl"), *place.glob("bbh_mc_orca/*.jsonl")]):
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


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    """Run the rounds and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-task", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    items, load = read_items(arguments.per_task), [os.getloadavg()[0]]
    engine = HFEngine("smollm2_135m", dtype="float32", device="cpu")
    ours = Ours(engine, items)
    scan: dict[int, float] = {}
    for batch in arguments.batches:
        harness = LmEval(engine.directory, items, batch)
        scan[batch] = len(items) / seconds(lambda: harness.generate(LENGTHS[0]))[0]  # noqa: B023
        print(f"lm-eval, batches of {batch}: {scan[batch]:.3f} items/s", flush=True)
    harness = LmEval(engine.directory, items, max(scan, key=scan.__getitem__))
    rates: dict[tuple[int, str], list[float]] = {}
    texts: dict[tuple[int, str], Any] = {}
    for number in range(arguments.rounds):
        for length in LENGTHS:
            pair: list[tuple[str, Any]] = [("ours", ours), ("lm-eval", harness)]
            for name, runner in pair if number % 2 == 0 else reversed(pair):
                took, texts[length, name] = seconds(lambda: runner.generate(length))  # noqa: B023
                rates.setdefault((length, name), []).append(len(items) / took)
                print(f"round {number + 1}, {length} {name}: {len(items) / took:.3f} items/s")
    count = min(16, len(items))
    pairs = zip(ours.loglikelihoods(count), harness.loglikelihoods(count), strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    load.append(os.getloadavg()[0])
    text = report(arguments, items, scan, rates, texts, difference, load)
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    stamp = datetime.date.today().isoformat()
    file = Path(arguments.out) / f"evaluate_cpu_{machine}_{stamp}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


def report(
    arguments: argparse.Namespace,
    items: list[str],
    scan: dict[int, float],
    rates: dict[tuple[int, str], list[float]],
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
        "# Evaluation on the CPU: items per second",
        "",
        f"- Command: `python benchmarks/evaluate_cpu.py --rounds {arguments.rounds} --per-task "
        f"{arguments.per_task}` with `ORCA_SHARED_DATA` set",
        f"- Hardware: {cpu_name()}, {arguments.threads} threads. Load of the machine (1 minute) "
        f"before {load[0]:.1f}, after {load[1]:.1f}.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- Model: SmolLM2-135M-Instruct, float32, greedy. Data: the first {arguments.per_task} "
        f"items of each AGIEval and BBH task in `orca_eval_prompts`, {len(items)} in all.",
        f"- Protocol: {arguments.rounds} rounds, the two in turn. lm-eval's batch size: {best}, "
        f"the fastest at {LENGTHS[0]} new tokens (items/s of one run each: {scanned}).",
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
    lines += [
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
