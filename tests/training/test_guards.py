"""Steps that go wrong are skipped, counted and told with the ids of their examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_module import data, fit

from orca.training import LossSpikes, NonFiniteLoss
from orca.training.directory import rewind


class Poison(Callback):
    """Makes the loss of chosen micro-batches no number, by (batch, micro-batch)."""

    def __init__(self, *places: tuple[int, int]) -> None:
        self.places = places
        self.poisoned: list[str] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, i: int) -> None:
        for number, micro in enumerate(batch.micro_batches):
            if (i, number) in self.places:
                self.poisoned += micro.example_ids
                micro.position_ids = micro.position_ids.float() * float("nan")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights.append(next(pl_module.student.parameters()).detach().clone())


def incidents(directory: Path) -> list[dict[str, Any]]:
    file = directory / "incidents.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_step_that_is_no_number_is_skipped_and_names_its_bad_examples(
    tmp_path: Path, tokenizer: Any
) -> None:
    poison = Poison((1, 2))
    fit(data(tmp_path, tokenizer), tokenizer, poison)
    (incident,) = incidents(tmp_path)
    assert incident["examples"] == poison.poisoned and poison.poisoned
    assert incident["kind"] == "not finite" and incident["step"] == 1
    assert torch.equal(poison.weights[1], poison.weights[0])  # nothing was updated
    assert not torch.equal(poison.weights[2], poison.weights[1])  # and training went on
    assert all(bool(torch.isfinite(w).all()) for w in poison.weights)


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path: Path, tokenizer: Any) -> None:
    poison = Poison((0, 0), (2, 0), (3, 0))
    datamodule = data(tmp_path, tokenizer, global_batch=2)
    with pytest.raises(NonFiniteLoss, match=r"step 1: loss nan.* the 1 step\(s\) tried before"):
        fit(datamodule, tokenizer, poison, max_skipped_steps=2)
    assert [incident["step"] for incident in incidents(tmp_path)] == [0, 1, 1]


def test_a_loss_far_above_the_recent_ones_is_reported(tmp_path: Path) -> None:
    class Trainer:
        """What the callback reads of a Trainer; the losses are made up."""

        def __init__(self, step: int, loss: float) -> None:
            self.global_step, self.callback_metrics = step, {"train/loss": torch.tensor(loss)}

    class Batch:
        def __init__(self, step: int) -> None:
            self.example_ids = [f"e{step}"]

    def run(spikes: LossSpikes, losses: list[float], first: int = 1) -> None:
        for step, loss in enumerate(losses, start=first):
            spikes.on_train_batch_end(Trainer(step, loss), None, None, Batch(step), step)  # type: ignore[arg-type]

    losses = [2.0 + 0.01 * (i % 5) for i in range(12)] + [2.1, 9.0, 2.0]
    whole = LossSpikes(str(tmp_path), window=10, deviations=8.0)
    run(whole, losses)
    assert [(i["step"], i["examples"]) for i in incidents(tmp_path)] == [(13, ["e14"])]
    part, rest = (LossSpikes(str(tmp_path / "resumed"), 10, 8.0) for _ in range(2))
    (tmp_path / "resumed").mkdir()
    run(part, losses[:7])
    rest.load_state_dict(part.state_dict())
    run(rest, losses[7:], first=8)
    assert incidents(tmp_path / "resumed") == incidents(tmp_path)


def test_records_of_steps_that_are_done_again_are_cut(tmp_path: Path) -> None:
    separator = "\u2028"  # ends a line for str.splitlines, and none of JSON
    rows = [{"step": step, "text": separator} for step in (3, 7, 8, 9)]
    incidents_of = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "incidents.jsonl").write_text("".join(incidents_of) + '{"step": 1')
    (tmp_path / "samples.jsonl").write_text("".join(incidents_of))
    rewind(tmp_path, 8)
    assert (tmp_path / "incidents.jsonl").read_text() == "".join(incidents_of[:2])
    assert (tmp_path / "samples.jsonl").read_text() == "".join(incidents_of[:3])
