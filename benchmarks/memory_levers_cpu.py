"""What each memory lever costs and gains on the CPU: SmolLM2-135M, packs of the sample traces.

    python benchmarks/memory_levers_cpu.py --rounds 3

For every case: bytes that the forward pass leaves for the backward pass (all that is alive then and
was made in it, whoever keeps it), bytes of weights, gradients and optimizer state after a step, and
seconds of a step. Cases take turns, one step each, on the same packs; the first step of a case is
not counted. bf16 autocast over float32 weights. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train_step_cpu import SMOLLM2, TEMPLATE, cpu_name

from orca.config import PACKAGE_DIR
from orca.stream import Encoder, MicroBatch, Pack, collate
from orca.traces import TraceSource
from orca.training import AdamW, AdamW8bit, Levers, Lora, Student, implementation, prepare_model

CPU = torch.device("cpu")


class KeptBytes(TorchDispatchMode):
    """Bytes of the tensors that were made inside and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
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
class Case:
    """A student with its levers, and what was measured of it."""

    name: str
    attention: str = "documents"
    levers: Levers = field(default_factory=Levers)
    optimizer: type[AdamW] = AdamW
    lr: float = 1e-4
    adapter: Lora | None = None
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
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

    def step(self, batch: MicroBatch) -> None:
        targets = int((batch.labels != -100).sum())
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.student(batch) / targets
        loss.backward()
        self.gradients = sum(_bytes(p.grad) for p in self.student.parameters())
        self.stepper.step()
        self.stepper.zero_grad()
        self.seconds.append(time.perf_counter() - started)
        self.losses.append(float(loss.detach()))

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

    def state(self) -> int:
        tensors = [t for s in self.stepper.state.values() for t in s.values()]
        return sum(_bytes(tensor) for tensor in tensors)


def _bytes(tensor: Any) -> int:
    if tensor is None:
        return 0
    if hasattr(tensor, "codes"):  # torchao's moments
        return sum(_bytes(part) for part in (tensor.codes, tensor.scale, tensor.qmap))
    return tensor.numel() * tensor.element_size()


def packs(tokenizer: Any, number: int) -> list[MicroBatch]:
    """Packs of seven sample traces, about a thousand tokens each."""
    source = TraceSource("stage1_train.jsonl", "trace", str(PACKAGE_DIR / "sample" / "data"))
    examples = Encoder(tokenizer, TEMPLATE, 1024).encode([source[i] for i in range(7 * number)])
    return [collate([Pack(examples[7 * i : 7 * i + 7])]) for i in range(number)]


def table(cases: list[Case], arguments: argparse.Namespace) -> str:
    """The result file."""
    names = ("torch", "transformers", "torchao", "peft")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    base, mib = cases[0], 2**20
    lines = [
        "# Memory levers on the CPU",
        "",
        f"- Command: `python benchmarks/memory_levers_cpu.py --rounds {arguments.rounds}`",
        f"- Hardware: {cpu_name()}, {torch.get_num_threads()} thread(s). {platform.system()}.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- SmolLM2-135M, bf16 autocast, packs of about {arguments.tokens} tokens of the sample "
        f"traces; {arguments.rounds} rounds in turn after one of warm-up; medians; the machine is "
        "shared, so compare ratios. MiB.",
        "",
        "| case | kept for backward | weights | gradients | optimizer state | s a step | × first "
        "(rounds) | loss of the last step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        seconds, first = case.seconds[1:], base.seconds[1:]
        ratios = [a / b for a, b in zip(seconds, first, strict=True)]
        weights = sum(_bytes(p) for p in case.student.parameters())
        sizes = (case.kept, weights, case.gradients, case.state())
        lines.append(
            f"| {case.name} | {' | '.join(f'{size / mib:,.0f}' for size in sizes)} | "
            f"{statistics.median(seconds):.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {case.losses[-1]:.4f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the rounds and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    tokenizer = SMOLLM2.tokenizer()
    TEMPLATE.prepare(tokenizer)
    batches = packs(tokenizer, arguments.rounds + 1)
    arguments.tokens = round(statistics.mean(b.input_ids.numel() for b in batches))
    cases = [
        Case("`documents`, nothing else"),
        Case("activation_checkpointing=selective", levers=Levers("selective")),
        Case("activation_checkpointing=full", levers=Levers("full")),
        Case("attention=sdpa", attention="sdpa"),
        Case("attention=sdpa, compile=true", attention="sdpa", levers=Levers(compile=True)),
        Case("optimizer=adamw_8bit", optimizer=AdamW8bit),
        Case("model/adapter=lora, lr × 10", adapter=Lora(), lr=1e-3),
    ]
    for case in cases:
        case.build(tokenizer)
        case.keep(batches[0])
    for number, batch in enumerate(batches):
        order: Callable[[list[Case]], Any] = list if number % 2 == 0 else reversed
        for case in order(cases):
            case.step(batch)
            print(f"round {number} {case.name}: {case.seconds[-1]:.2f} s", flush=True)
    text = table(cases, arguments)
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    name = f"memory_levers_{machine}_{datetime.date.today().isoformat()}.md"
    (Path(arguments.out) / name).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
