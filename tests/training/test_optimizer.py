"""Schedules are functions of progress; decay spares norms, biases and embeddings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from orca.errors import UserError
from orca.training import AdamW, AdamW8bit, Constant, Cosine, Linear
from orca.training.optimizer import set_lr


def test_schedules_rise_over_the_warm_up_and_end_where_they_should() -> None:
    for schedule, middle in ((Cosine(0.1, 0.2), 0.6), (Linear(0.1, 0.2), 0.6), (Constant(0.1), 1)):
        assert schedule(0.05) == pytest.approx(0.5)
        assert schedule(0.1) == pytest.approx(1.0)
        assert schedule(0.55) == pytest.approx(middle)
    assert Cosine(0.1, 0.2)(1.0) == pytest.approx(0.2) and Linear(0.0)(1.0) == 0
    assert Cosine(0.0)(0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    with pytest.raises(UserError, match="warmup"):
        Cosine(warmup=3)


@pytest.mark.parametrize("optimizer", [AdamW, AdamW8bit])
@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_that_are_no_embeddings_decay(tied: bool, optimizer: type[AdamW]) -> None:
    config = LlamaConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    decayed, others = optimizer(1e-3, weight_decay=0.1).build(model, 0.5).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    spared = {names[id(p)] for p in others["params"]}
    assert others["weight_decay"] == 0 and decayed["weight_decay"] == 0.1
    assert spared == {n for n in names.values() if "norm" in n or "embed" in n}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert float(decayed["lr"]) == pytest.approx(5e-4) and isinstance(
        decayed["params"][0], torch.nn.Parameter
    )


def model_and_optimizer(kind: type[AdamW]) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model = LlamaForCausalLM(config)
    return model, kind(1e-2).build(model)


def losses(model: Any, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    found = []
    for number in steps:
        ids = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(number % 2))
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        set_lr(optimizer, 1e-2 / (1 + number))
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.slow
def test_8bit_moments_train_alike_in_a_quarter_of_the_memory_and_resume_exactly(
    tmp_path: Path,
) -> None:
    """Saved by DCP, as checkpoints are; set_lr reaches the compiled step, or losses would part."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    plain = losses(*model_and_optimizer(AdamW), range(6))
    model, optimizer = model_and_optimizer(AdamW8bit)
    first = losses(model, optimizer, range(3))
    assert plain[5] < 0.9 * plain[0] and first == pytest.approx(plain[:3], rel=1e-3)
    weight, state = next((p, s) for p, s in optimizer.state.items() if p.ndim == 2)
    assert state["exp_avg"].codes.dtype == torch.uint8
    assert state["exp_avg"].scale.numel() * 256 == weight.numel()

    saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    expected = losses(model, optimizer, range(3, 6))
    assert expected == pytest.approx(plain[3:], rel=2e-2)
    again, fresh = model_and_optimizer(AdamW8bit)
    saved = dict(zip(("model", "optimizer"), get_state_dict(again, fresh), strict=True))
    dcp.load(saved, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(
        again,
        fresh,
        model_state_dict=saved["model"],
        optim_state_dict=saved["optimizer"],
    )
    assert losses(again, fresh, range(3, 6)) == expected
