"""The chunked loss equals PyTorch's cross-entropy, in value and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from orca.errors import UserError
from orca.stream import IGNORED, Example, Pack, collate
from orca.training import Student, implementation, target_cross_entropy


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_value_and_gradients_equal_plain_cross_entropy(chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(23, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(0, 50, (23,))
    ours = target_cross_entropy(hidden, weight, targets, chunk) * 0.37
    got = torch.autograd.grad(ours, (hidden, weight))
    plain = cross_entropy(hidden @ weight.T, targets, reduction="sum") * 0.37
    wanted = torch.autograd.grad(plain, (hidden, weight))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_keeps_its_own(frozen: str) -> None:
    """LoRA freezes lm_head: its gradient, the largest there is, is neither computed nor kept."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 16), torch.randn(50, 16)
    targets = torch.randint(0, 50, (23,))
    trained = hidden if frozen == "weight" else weight
    both = [t.clone().requires_grad_() for t in (hidden, weight)]
    target_cross_entropy(*both, targets, 7).backward()
    trained.requires_grad_()
    kept: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = target_cross_entropy(hidden, weight, targets, 7)
    loss.backward()
    assert kept == [trained.shape]
    assert torch.equal(trained.grad, both[0 if frozen == "weight" else 1].grad)
    assert (weight if frozen == "weight" else hidden).grad is None


def test_without_targets_the_loss_is_zero_and_still_has_a_gradient() -> None:
    hidden = torch.randn(0, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    loss = target_cross_entropy(hidden, weight, torch.empty(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and weight.grad is not None and weight.grad.abs().max() == 0


def tiny(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = {
        "vocab_size": 70,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**config))


@pytest.mark.parametrize("tied", [True, False])
def test_a_students_loss_is_the_models_own_loss_on_each_example(tied: bool) -> None:
    model = tiny(tie_word_embeddings=tied)
    model.set_attn_implementation(implementation("documents"))
    rng = np.random.default_rng(0)
    examples = [
        Example(f"e{n}", rng.integers(0, 70, n).astype(np.int32), prompt, "", "", "")
        for n, prompt in ((12, 5), (30, 29), (9, 1))
    ]
    loss = Student(model, loss_chunk=4)(collate([Pack(examples)]))
    loss.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation("eager")
    expected = torch.zeros(())
    for example in examples:
        ids = torch.from_numpy(example.tokens).long()[None]
        labels = ids.clone()
        labels[:, : example.num_prompt] = IGNORED
        count = int((labels[:, 1:] != IGNORED).sum())
        expected = expected + model(ids, labels=labels, use_cache=False).loss * count
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_model_that_changes_its_logits_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    with pytest.raises(UserError, match="final_logit_softcapping"):
        Student(Gemma2ForCausalLM(config))
