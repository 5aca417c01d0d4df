"""Schedules are functions of progress; decay spares norms, biases and embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from orca.errors import UserError
from orca.training import AdamW, Constant, Cosine, Linear


def test_schedules_rise_over_the_warm_up_and_end_where_they_should() -> None:
    for schedule, middle in ((Cosine(0.1, 0.2), 0.6), (Linear(0.1, 0.2), 0.6), (Constant(0.1), 1)):
        assert schedule(0.05) == pytest.approx(0.5)
        assert schedule(0.1) == pytest.approx(1.0)
        assert schedule(0.55) == pytest.approx(middle)
    assert Cosine(0.1, 0.2)(1.0) == pytest.approx(0.2) and Linear(0.0)(1.0) == 0
    assert Cosine(0.0)(0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    with pytest.raises(UserError, match="warmup"):
        Cosine(warmup=3)


@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_that_are_no_embeddings_decay(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    decayed, others = AdamW(1e-3, weight_decay=0.1).build(model, 0.5).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    spared = {names[id(p)] for p in others["params"]}
    assert others["weight_decay"] == 0 and decayed["weight_decay"] == 0.1
    assert spared == {n for n in names.values() if "norm" in n or "embed" in n}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert decayed["lr"] == 5e-4 and isinstance(decayed["params"][0], torch.nn.Parameter)
