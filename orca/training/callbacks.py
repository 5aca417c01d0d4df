"""What is watched while a student trains: progress, throughput, sample responses."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from tqdm.auto import tqdm

from orca.stream import StepBatch, TraceDataModule
from orca.training.answers import generate, is_exact_answer
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
        parts = {"step": str(trainer.global_step), "loss": f"{metrics['train/loss']:.3f}"}
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
    """Real tokens/s and target tokens/s over all ranks, smoothed over ``window`` steps.

    Tokens are those of examples; packs travel without padding, and ``throughput/fill`` is the
    share of a pack's capacity that they fill. Time for validation and samples is not counted.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self._recent: list[tuple[float, int, int]] = []
        self._started = 0.0

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
        seconds = time.perf_counter() - self._started
        self._recent = [*self._recent, (seconds, batch.num_tokens, batch.num_targets)][
            -self.window :
        ]
        total, tokens, targets = (sum(column) for column in zip(*self._recent, strict=True))
        datamodule: TraceDataModule = trainer.datamodule  # type: ignore[attr-defined]
        log_step(
            pl_module,
            {
                "throughput/tokens_per_second": tokens / total,
                "throughput/target_tokens_per_second": targets / total,
                "throughput/fill": batch.num_tokens / (len(batch.packs) * datamodule.max_tokens),
                "data/tokens": float(datamodule.card.counters["totals"]["tokens"]),
                "data/target_tokens": float(datamodule.card.counters["totals"]["target_tokens"]),
            },
        )


class HeldOutAnswers(Callback):
    """Answers held-out questions before and after training, and a few in between.

    The share of exact answers is logged as ``val/exact_answer`` where questions have gold
    answers; every response goes to ``samples.jsonl`` and to a W&B table.

    Args:
        questions: most questions answered before and after; 0 switches this off.
        samples: questions answered every ``every_n_steps`` steps.
        max_new_tokens, batch_size: of the greedy generation.
    """

    def __init__(
        self,
        directory: str,
        questions: int = 96,
        samples: int = 4,
        every_n_steps: int = 0,
        max_new_tokens: int = 128,
        batch_size: int = 32,
    ) -> None:
        self.file = Path(directory) / "samples.jsonl"
        self.questions = questions
        self.samples = samples
        self.every_n_steps = every_n_steps
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

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
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
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
                self.batch_size,
            )
        rows = [
            {
                "step": trainer.global_step,
                "id": trace.id,
                "task": trace.task,
                "system_message": trace.system_message,
                "query": trace.query,
                "response": response,
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
        scored = [row["exact"] for row in rows if row["exact"] is not None]
        for logger in trainer.loggers:
            if scored and whole:
                share = sum(scored) / len(scored)
                logger.log_metrics({"val/exact_answer": share}, max(trainer.global_step - 1, 0))
            if isinstance(logger, WandbLogger):
                columns = list(rows[0])
                table = [[row[name] for name in columns] for row in rows]
                logger.log_table("samples/held_out", columns=columns, data=table)
