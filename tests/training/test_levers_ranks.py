"""Memory levers on real ranks: FSDP2's and DDP's hooks stay outside of what is compiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_sharding import losses, model_of, runs, train

pytestmark = pytest.mark.slow
__all__ = ["runs"]  # the fixture


@pytest.mark.parametrize(
    "levers",
    [
        ["strategy=fsdp", "activation_checkpointing=full"],
        ["strategy=fsdp", "activation_checkpointing=selective", "compile=true"],
        ["strategy=ddp", "activation_checkpointing=selective", "compile=true"],
        ["strategy=fsdp", "optimizer=adamw_8bit"],
    ],
    ids=" ".join,
)
def test_levers_change_nothing_on_two_ranks(runs: Path, tmp_path: Path, levers: list[str]) -> None:
    got = losses(train(tmp_path, "r", *model_of(runs), "trainer.devices=2", *levers))
    rel = 1e-4 if "optimizer=adamw_8bit" in levers else 1e-5
    assert got == pytest.approx(losses(runs / "two/flan5m_chatgpt"), rel=rel) and len(got) == 6


def test_8bit_moments_resume_exactly_on_two_ranks(runs: Path, tmp_path: Path) -> None:
    options = ["optimizer=adamw_8bit", "strategy=fsdp", "trainer.devices=2"]
    stage = train(tmp_path, "r", *model_of(runs), *options)
    expected = losses(stage)
    (stage / "results.json").unlink()
    shutil.rmtree(stage / "checkpoints/step00000006")
    train(tmp_path, "r", *model_of(runs), *options, "resume=auto")
    assert losses(stage) == expected and len(expected) == 6


def test_lora_on_two_ranks_trains_as_on_one(runs: Path, tmp_path: Path) -> None:
    options = [*model_of(runs), "model/adapter=lora", "optimizer.lr=1e-2"]
    one = losses(train(tmp_path, "one", *options))
    two = losses(train(tmp_path, "two", *options, "strategy=ddp", "trainer.devices=2"))
    assert two == pytest.approx(one, rel=1e-5) and one[-1] < one[0]
