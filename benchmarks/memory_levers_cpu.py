"""What each memory lever costs and gains on the CPU: SmolLM2-135M, packs of the sample traces.

    python benchmarks/memory_levers_cpu.py --rounds 3

For every case: bytes that the forward pass leaves for the backward pass (all that is alive then and
was made in it, whoever keeps it), bytes of weights, gradients and optimizer state after a step, and
the time of a step. Every case takes turns with the first one, on the same packs; the first two
rounds are not counted. bf16 autocast over float32 weights. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train_step_cpu import SMOLLM2, TEMPLATE, cpu_name

from orca.config import PACKAGE_DIR
from orca.stream import Encoder, Example, MicroBatch, Pack, collate
from orca.traces import TraceSource
from orca.training import AdamW, AdamW8bit, Levers, Lora, Student, implementation, prepare_model

CPU = torch.device("cpu")
WARM_UP = 2
"""Rounds not counted: the second length that a compiled layer sees is compiled for all lengths."""


class KeptBytes(TorchDispatchMode):
    """Counts the bytes that a forward pass leaves in memory, whoever keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return output

    def total(self) -> int:
        gc.collect()
        return sum(size for reference, size in self.seen.values() if not reference.expired())


@dataclass
class Turns:
    """Seconds of the steps of a case and of the first case, in turn."""

    case: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Of each counted round."""
        return [a / b for a, b in zip(self.case[WARM_UP:], self.base[WARM_UP:], strict=True)]


@dataclass
class Case:
    """A student with its levers, and what was measured of it."""

    name: str
    attention: str = "documents"
    levers: Levers = field(default_factory=Levers)
    optimizer: type[AdamW] = AdamW
    lr: float = 1e-4
    adapter: Lora | None = None
    kept: int = 0

    def build(self, tokenizer: Any) -> None:
        model = SMOLLM2.model()
        prepare_model(model, tokenizer, 64)
        model.set_attn_implementation(implementation(self.attention))
        if self.adapter is not None:
            self.adapter.put_on(model, "SmolLM2-135M", 0, half=True)
        self.levers.apply(model, CPU)
        self.student = Student(model).train()
        self.stepper = self.optimizer(self.lr).build(self.student)

    def step(self, batch: MicroBatch) -> float:
        """Seconds of an optimizer step on ``batch``."""
        targets = int((batch.labels != -100).sum())
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.student(batch) / targets
        loss.backward()
        self.gradients = sum(_bytes(p.grad) for p in self.student.parameters())
        self.stepper.step()
        self.stepper.zero_grad()
        return time.perf_counter() - started

    def keep(self, batch: MicroBatch) -> None:
        """Fill ``kept``. Inside autocast: on leaving it, its bf16 copies of weights would go."""
        own = {p.untyped_storage()._cdata for p in self.student.parameters()}
        saved: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage.nbytes()
            return tensor

        with torch.autocast("cpu", torch.bfloat16):
            if self.levers.compile:  # goes through no dispatch mode: what autograd saves, then
                with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                    loss = self.student(batch)
                self.kept = sum(size for key, size in saved.items() if key not in own)
            else:
                with KeptBytes() as memory:
                    loss = self.student(batch)
                    self.kept = memory.total()
        del loss

    def close(self, turns: Turns) -> None:
        """Note sizes and times, and free the rest."""
        state = [t for s in self.stepper.state.values() for t in s.values()]
        weights = sum(_bytes(p) for p in self.student.parameters())
        self.sizes = (self.kept, weights, self.gradients, sum(_bytes(t) for t in state))
        self.turns = turns
        del self.student, self.stepper


def _bytes(tensor: Any) -> int:
    if tensor is None:
        return 0
    if hasattr(tensor, "codes"):  # torchao's moments
        return sum(_bytes(part) for part in (tensor.codes, tensor.scale, tensor.qmap))
    return tensor.numel() * tensor.element_size()


def packs(tokenizer: Any, number: int) -> list[MicroBatch]:
    """Packs of four sample traces."""
    source = TraceSource("stage1_train.jsonl", "trace", str(PACKAGE_DIR / "sample" / "data"))
    examples = Encoder(tokenizer, TEMPLATE, 1024).encode([source[i] for i in range(4 * number)])
    short = [one for one in examples if isinstance(one, Example)]  # all of them
    return [collate([Pack(short[4 * i : 4 * i + 4])]) for i in range(number)]


def table(cases: list[Case], arguments: argparse.Namespace) -> str:
    """The result file."""
    names = ("torch", "transformers", "torchao", "peft")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    lines = [
        "# Memory levers on the CPU",
        "",
        f"- Command: `python benchmarks/memory_levers_cpu.py --rounds {arguments.rounds}`",
        f"- Hardware: {cpu_name()}, {torch.get_num_threads()} thread(s). {platform.system()}.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- SmolLM2-135M, bf16 autocast, packs of about {arguments.tokens} tokens of the sample "
        f"traces; step times in turn with the first case, {arguments.rounds} round(s) after "
        f"{WARM_UP} of warm-up. Sizes in MiB.",
        "",
        "| case | kept for backward | weights | gradients | optimizer state | step time × first, "
        "median (each round) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        ratios = case.turns.ratios()
        times = "1"
        if ratios:
            times = f"{statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})"
        sizes = " | ".join(f"{size / 2**20:,.0f}" for size in case.sizes)
        lines.append(f"| {case.name} | {sizes} | {times} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the rounds and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    tokenizer = SMOLLM2.tokenizer()
    TEMPLATE.prepare(tokenizer)
    batches = packs(tokenizer, arguments.rounds + WARM_UP)
    arguments.tokens = round(statistics.mean(b.input_ids.numel() for b in batches))
    cases = [
        Case("`documents`, nothing else"),
        Case("activation_checkpointing=selective", levers=Levers("selective")),
        Case("activation_checkpointing=full", levers=Levers("full")),
        Case("attention=sdpa", attention="sdpa"),
        Case("attention=sdpa, compile=true", attention="sdpa", levers=Levers(compile=True)),
        Case("optimizer=adamw_8bit", optimizer=AdamW8bit),
        Case("model/adapter=lora", adapter=Lora()),
    ]
    base = cases[0]
    base.build(tokenizer)
    base.keep(batches[0])
    for case in cases[1:]:
        case.build(tokenizer)
        case.keep(batches[0])
        own = Turns()
        for number, batch in enumerate(batches):
            for which in (base, case) if number % 2 == 0 else (case, base):
                seconds = which.step(batch)
                (own.base if which is base else own.case).append(seconds)
            print(f"{case.name}: {own.case[-1]:.2f} s, first case {own.base[-1]:.2f} s", flush=True)
        case.close(own)
    base.close(Turns())
    text = table(cases, arguments)
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    name = f"memory_levers_{machine}_{datetime.date.today().isoformat()}.md"
    (Path(arguments.out) / name).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
