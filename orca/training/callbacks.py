"""What is watched while a student trains: progress, throughput, sample responses."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from tqdm.auto import tqdm

from orca.answers import is_exact_answer
from orca.errors import UserError
from orca.stream import StepBatch, TraceDataModule
from orca.training.answers import SAMPLES_FILE, generate
from orca.training.flops import ModelFlops, mfu_reference, model_flops
from orca.training.loggers import log_step
from orca.training.module import ExplanationTuning
from orca.training.sharding import whole_root


class RunProgress(Callback):
    """One bar over the run's rows (or steps): loss, tokens/s, time left."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: StepBatch, batch_idx: int
    ) -> None:
        if self._bar is not None:
            return
        by_steps = trainer.max_steps > 0
        self._bar = tqdm(
            total=trainer.max_steps if by_steps else 100.0,
            initial=trainer.global_step if by_steps else 100 * batch.progress[0],
            desc="train",
            dynamic_ncols=True,
            disable=not trainer.is_global_zero,
            mininterval=0.1 if sys.stderr.isatty() else 15.0,  # a log needs fewer lines
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}",
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        done = trainer.global_step if trainer.max_steps > 0 else 100 * batch.progress[1]
        metrics = trainer.callback_metrics
        parts = {"step": str(trainer.global_step)}
        if "train/loss" in metrics:  # not where the first step was skipped
            parts["loss"] = f"{metrics['train/loss']:.3f}"
        if "throughput/tokens_per_second" in metrics:
            parts["tokens/s"] = f"{metrics['throughput/tokens_per_second']:.0f}"
        if "val/loss" in metrics:
            parts["val"] = f"{metrics['val/loss']:.3f}"
        self._bar.set_postfix(parts, refresh=False)
        self._bar.update(done - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()


class Throughput(Callback):
    """Real tokens/s, target tokens/s and MFU over all ranks, smoothed over ``window`` steps.

    Tokens are those of examples; packs travel without padding, and ``throughput/fill`` is the
    share of a pack's capacity that they fill. A step's time is the wait for its data, of which
    ``throughput/data_wait`` is the share, and the training step; validation, samples and
    checkpoints are not counted, nor is a process's first step (compilation, first allocations)
    once there is a second. Nothing here synchronises the device: a step ends with its loss on the
    host. Another rank's wait for data shows here as time of the step.

    ``throughput/peak_memory_gib`` is of this process since it began (:func:`peak_memory_gib`), and
    ``data/response_tokens`` the mean number of target tokens of the step's examples.
    ``throughput/mfu`` is as :mod:`orca.training.flops` defines it. Where no peak is known for the
    device there is no such metric; what is missing is printed once.
    """

    def __init__(self, window: int = 10) -> None:
        if window < 1:
            raise UserError(f"callbacks.throughput.window={window} must be at least 1")
        self.window = window
        self._steps: list[_StepCost] = []
        self._seen = 0
        self._started = 0.0
        self._flops: ModelFlops | None = None
        self._peak: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        precision = str(trainer.precision)
        one_device, _ = mfu_reference(trainer.strategy.root_device, precision)
        if one_device is None:  # the reason is in the run's announcement
            return
        try:
            self._flops = model_flops(cast(ExplanationTuning, pl_module).student.causal_lm)
            self._peak = one_device * trainer.world_size
        except UserError as error:
            if trainer.is_global_zero:
                print(f"no MFU: {error}", flush=True)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: StepBatch, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        if pl_module.skipped:  # it would be filed under the step before
            return
        step = _StepCost(
            seconds=time.perf_counter() - self._started + batch.wait_seconds,
            waited=batch.wait_seconds,
            tokens=batch.num_tokens,
            targets=batch.num_targets,
            squares=sum(item.pack.sum_of_squares for item in batch.packs),
        )
        if self._seen == 1:
            self._steps = []
        self._seen += 1
        self._steps = [*self._steps, step][-self.window :]
        log_step(pl_module, self._metrics(trainer, batch))

    def _metrics(self, trainer: L.Trainer, batch: StepBatch) -> dict[str, float]:
        seconds, waited, tokens, targets, squares = (
            sum(column) for column in zip(*self._steps, strict=True)
        )
        datamodule: TraceDataModule = trainer.datamodule  # type: ignore[attr-defined]
        totals = datamodule.card.counters["totals"]
        metrics = {
            "throughput/tokens_per_second": tokens / seconds,
            "throughput/target_tokens_per_second": targets / seconds,
            "throughput/data_wait": waited / seconds,
            "throughput/fill": batch.num_tokens / (len(batch.packs) * datamodule.max_tokens),
            "data/tokens": float(totals["tokens"]),
            "data/target_tokens": float(totals["target_tokens"]),
            "data/response_tokens": batch.num_targets / len(batch.example_ids),
            "throughput/peak_memory_gib": peak_memory_gib(trainer.strategy.root_device),
        }
        if self._flops is not None and self._peak is not None:
            done = self._flops.of(tokens, targets, squares)
            metrics["throughput/mfu"] = done / seconds / self._peak
        return metrics


class _StepCost(NamedTuple):
    """One optimizer step of all ranks; ``squares`` is Σ length² over its examples."""

    seconds: float
    waited: float
    tokens: int
    targets: int
    squares: int


def peak_memory_gib(device: torch.device) -> float:
    """Most memory so far: what PyTorch allocated on a GPU, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB elsewhere


class HeldOutAnswers(Callback):
    """Answers held-out questions before and after training, and a few in between.

    The share of exact answers is logged as ``val/exact_answer`` where questions have gold
    answers, the responses' mean length as ``samples/response_tokens``; every response goes to
    ``samples.jsonl`` and to a W&B table.

    Args:
        questions: most questions answered before and after; 0 switches this off.
        samples: questions answered every ``every_n_steps`` steps.
        max_new_tokens: of the greedy generation.
    """

    def __init__(
        self,
        directory: str,
        questions: int = 96,
        samples: int = 4,
        every_n_steps: int = 0,
        max_new_tokens: int = 128,
    ) -> None:
        self.file = Path(directory) / SAMPLES_FILE
        self.questions = questions
        self.samples = samples
        self.every_n_steps = every_n_steps
        self.max_new_tokens = max_new_tokens

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self.answer(trainer, pl_module, self.questions)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due and not pl_module.skipped:
            self.answer(trainer, pl_module, self.samples)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.answer(trainer, pl_module, self.questions)

    def answer(self, trainer: L.Trainer, pl_module: L.LightningModule, most: int) -> None:
        """Answer the first ``most`` held-out questions (spread over the families) and log them."""
        assert isinstance(pl_module, ExplanationTuning)
        datamodule: TraceDataModule = trainer.datamodule  # type: ignore[attr-defined]
        traces = datamodule.held_out_traces()
        step = max(1, len(traces) // most) if most else 1
        traces = traces[::step][:most]
        if not traces:
            return
        student = pl_module.student
        with trainer.precision_plugin.forward_context(), whole_root(student):
            responses = generate(
                student.causal_lm,
                pl_module.tokenizer,
                datamodule.template,
                [(trace.system_message, trace.query) for trace in traces],
                self.max_new_tokens,
            )
        rows = [
            {
                "step": trainer.global_step,
                "id": trace.id,
                "task": trace.task,
                "system_message": trace.system_message,
                "query": trace.query,
                "response": response,
                "response_tokens": len(
                    pl_module.tokenizer(response, add_special_tokens=False)["input_ids"]
                ),
                "gold_answer": trace.gold_answer,
                "exact": None
                if trace.gold_answer is None
                else is_exact_answer(response, trace.gold_answer),
            }
            for trace, response in zip(traces, responses, strict=True)
        ]
        self._log(trainer, rows, whole=most == self.questions)

    def _log(self, trainer: L.Trainer, rows: list[dict[str, Any]], whole: bool) -> None:
        if not trainer.is_global_zero:
            return
        with self.file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        lengths = [row["response_tokens"] for row in rows]
        metrics = {"samples/response_tokens": sum(lengths) / len(lengths)} if whole else {}
        scored = [row["exact"] for row in rows if row["exact"] is not None]
        if scored and whole:
            metrics["val/exact_answer"] = sum(scored) / len(scored)
        for logger in trainer.loggers:
            if metrics:
                logger.log_metrics(metrics, max(trainer.global_step - 1, 0))
            if isinstance(logger, WandbLogger):
                columns = list(rows[0])
                table = [[row[name] for name in columns] for row in rows]
                logger.log_table("samples/held_out", columns=columns, data=table)
