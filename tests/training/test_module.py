"""One optimizer step: the gradient does not depend on how the global batch is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ORCA_TEMPLATE, compose_config, rows_of_length
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback

from orca.stream import Shuffle, TraceDataModule
from orca.training import AdamW, Constant, ExplanationTuning


class Gradients(Callback):
    """Keeps the gradients that each optimizer step sees."""

    def __init__(self) -> None:
        self.steps: list[list[torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.clone() for p in pl_module.student.parameters() if p.grad is not None]
        self.steps.append(grads)


def data(directory: Path, tokenizer: Any, **changes: Any) -> TraceDataModule:
    import json

    file = directory / "rows.jsonl"
    rows = rows_of_length([5, 100, 20, 60, 200, 3, 80, 150, 40, 11, 90, 30] * 2)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {
        "name": "t",
        "path": None,
        "format": "trace",
        "parts": {"a": str(file)},
        "held_out": None,
        "held_out_fraction": 0.0,
        "held_out_examples": 4,
        "system_message": None,
        "answers_only": False,
        "packing": True,
        "isolate": True,
        "on_bad_row": "fail",
        "curriculum": Shuffle(),
        "max_tokens": 256,
        "window": 16,
        "global_batch": 4,
        "micro_batch": 1,
        "num_workers": 0,
        "seed": 0,
        "part": "a",
        "epochs": 1,
        "tokenizer": tokenizer,
        "template": ORCA_TEMPLATE,
    }
    return TraceDataModule(**{**options, **changes})


def fit(datamodule: TraceDataModule, tokenizer: Any, *callbacks: Callback, **changes: Any) -> Any:
    module = ExplanationTuning(
        pretrained=instantiate(compose_config("model=tiny").model),
        tokenizer=tokenizer,
        optimizer=AdamW(1e-3),
        scheduler=Constant(0.0),
        **{"gradient_clip": 0.0, **changes},
    )
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=datamodule.source.sets[0].patterns[0].rpartition("/")[0],
        max_epochs=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule)
    return trainer


def test_four_micro_batches_of_one_and_one_of_four_give_the_same_gradient(
    tmp_path: Path, tokenizer: Any
) -> None:
    found = []
    for micro_batch in (1, 2, 4):
        gradients = Gradients()
        fit(data(tmp_path, tokenizer, micro_batch=micro_batch), tokenizer, gradients)
        found.append(gradients.steps)
    assert len(found[0]) >= 2  # the last of which is a short global batch
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            whole = torch.cat([g.flatten() for g in ours])
            off = torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)])
            assert float(off.norm() / whole.norm()) < 1e-6


def test_the_gradient_is_that_of_the_mean_over_all_target_tokens(
    tmp_path: Path, tokenizer: Any
) -> None:
    """Reference: every trace of the step on its own through the model's own loss."""
    gradients = Gradients()
    datamodule = data(tmp_path, tokenizer, global_batch=64, micro_batch=1)
    fit(datamodule, tokenizer, gradients)
    model = instantiate(compose_config("model=tiny").model).model()
    from orca.training import prepare_model

    prepare_model(model, tokenizer, 64)
    source, total = datamodule.source, 0
    for number in range(len(source)):
        (example,) = datamodule.encoder.encode([source[number]])
        ids = torch.from_numpy(example.tokens).long()[None]
        labels = ids.clone()
        labels[:, : example.num_prompt] = -100
        count = int((labels != -100).sum())
        (model(ids, labels=labels, use_cache=False).loss * count).backward()
        total += count
    for got, parameter in zip(gradients.steps[0], model.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad / total, rtol=1e-4, atol=1e-7)


def test_a_global_batch_that_ranks_cannot_share_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from orca.errors import UserError

    with pytest.raises(UserError, match=r"data\.global_batch=4 .* 1 × 3"):
        fit(data(tmp_path, tokenizer, micro_batch=3), tokenizer)
