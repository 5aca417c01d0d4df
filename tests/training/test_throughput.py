"""The throughput callback in real fits on the CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_module import data, fit

from orca.training import callbacks
from orca.training.callbacks import Throughput
from orca.training.flops import model_flops

PEAK = 1e12


class Watch(Callback):
    """Keeps what every step logged, with its batch; sleeps where it is told to."""

    def __init__(self, sleep: float = 0.0) -> None:
        self.sleep = sleep
        self.rows: list[tuple[Any, dict[str, float]]] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.rows.append((batch, metrics))
        self.flops = model_flops(pl_module.student.causal_lm)
        time.sleep(self.sleep)


def test_mfu_is_the_flops_of_the_true_lengths_over_the_peak_of_all_ranks(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "mfu_reference", lambda device, precision: (PEAK, ""))
    watch = Watch()
    fit(data(tmp_path, tokenizer), tokenizer, Throughput(window=1), watch)
    assert len(watch.rows) >= 3
    for batch, metrics in watch.rows:
        lengths = [len(e.tokens) for item in batch.packs for e in item.pack.examples]
        squares = sum(length**2 for length in lengths)
        done = watch.flops.of(sum(lengths), batch.num_targets, squares)
        seconds = sum(lengths) / metrics["throughput/tokens_per_second"]
        assert metrics["throughput/mfu"] == pytest.approx(done / seconds / PEAK)
        targets = metrics["throughput/target_tokens_per_second"]
        assert targets * seconds == pytest.approx(batch.num_targets)


def test_without_a_known_peak_there_is_no_mfu(tmp_path: Path, tokenizer: Any) -> None:
    watch = Watch()
    fit(data(tmp_path, tokenizer), tokenizer, Throughput(), watch)
    names = {name for _, metrics in watch.rows for name in metrics}
    assert "throughput/tokens_per_second" in names
    assert "throughput/mfu" not in names


def test_the_wait_for_data_is_told_and_time_between_steps_is_not_counted(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data takes ten times as long as anything else; a callback sleeps just as long."""
    from orca.stream import StepLoader

    quick = StepLoader._step
    pause = 0.3

    def slow(self: Any, *arguments: Any) -> Any:
        time.sleep(pause)
        return quick(self, *arguments)

    monkeypatch.setattr(StepLoader, "_step", slow)
    watch = Watch(sleep=pause)
    torch.set_num_threads(1)
    fit(data(tmp_path, tokenizer), tokenizer, Throughput(window=100), watch)
    assert len(watch.rows) >= 3
    counted = watch.rows[1:]  # the first step counts until there is a second
    metrics = counted[-1][1]
    seconds = sum(b.num_tokens for b, _ in counted) / metrics["throughput/tokens_per_second"]
    waited = sum(batch.wait_seconds for batch, _ in counted)
    assert waited >= pause * len(counted)
    assert metrics["throughput/data_wait"] == pytest.approx(waited / seconds)
    in_steps = seconds - waited
    assert 0 < in_steps < pause * len(counted)  # the watcher's sleep is not in it


def test_a_run_says_what_mfu_is_measured_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_stage import FAST, train

    train(tmp_path, *FAST, "trainer.max_steps=1")
    assert "no MFU: no peak is known for this cpu" in capsys.readouterr().out
