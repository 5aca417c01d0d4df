"""Packed attention: an example's logits in a pack are the logits it has alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from orca.errors import UserError
from orca.stream import Example, MicroBatch, Pack, collate
from orca.training import BACKENDS, choose_backend, implementation
from orca.training.attention import attention_arguments

CPU_BACKENDS = ("documents", "sdpa", "flex")
CUDA_BACKENDS = tuple(b for b in BACKENDS if b not in CPU_BACKENDS)
LENGTHS = (37, 1, 64, 5, 130)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def pack_of(lengths: tuple[int, ...]) -> MicroBatch:
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 96, (n,), generator=generator).int().numpy() for n in lengths]
    return collate([Pack([Example("e", ids, 0, "", "", "") for ids in tokens])])


def alone(model: Any, batch: MicroBatch) -> torch.Tensor:
    model.set_attn_implementation("eager")
    bounds = batch.boundaries.tolist()
    parts = [
        model(batch.input_ids[:, a:b], use_cache=False).logits
        for a, b in itertools.pairwise(bounds)
    ]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def difference(model: Any, backend: str, batch: MicroBatch, **changes: Any) -> float:
    expected = alone(model, batch)
    model.set_attn_implementation(implementation(backend))
    arguments = {**attention_arguments(batch), **changes}
    return float((model(batch.input_ids, **arguments).logits - expected).abs().max())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_packed_logits_equal_each_examples_logits_alone(model: Any, backend: str) -> None:
    assert difference(model, backend, pack_of(LENGTHS)) < 5e-5


def test_the_test_sees_contamination(model: Any) -> None:
    """With a cache, transformers lets packed examples attend to each other without a word."""
    assert difference(model, "sdpa", pack_of(LENGTHS), use_cache=True) > 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", CUDA_BACKENDS)
def test_packed_logits_equal_logits_alone_on_cuda(model: Any, backend: str) -> None:
    try:
        choose_backend(backend, torch.device("cuda"))
    except UserError as missing:
        pytest.skip(str(missing))
    model = model.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert difference(model, backend, pack_of(LENGTHS).to("cuda")) < 5e-2


def test_gradients_of_a_pack_are_the_sum_of_its_examples_gradients(model: Any) -> None:
    from orca.training import Student

    batch = pack_of((20, 9, 33))
    model.set_attn_implementation(implementation("documents"))
    student = Student(model)
    student(batch).backward()
    packed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    bounds = batch.boundaries.tolist()
    for a, b in itertools.pairwise(bounds):
        one = Example("e", batch.input_ids[0, a:b].int().numpy(), 0, "", "", "")
        student(collate([Pack([one])])).backward()
    for together, parameter in zip(packed, model.parameters(), strict=True):
        torch.testing.assert_close(together, parameter.grad, rtol=1e-4, atol=1e-5)
    model.zero_grad()


def test_a_backend_that_cannot_be_had_is_an_error_not_a_fallback() -> None:
    cpu = torch.device("cpu")
    assert choose_backend("auto", cpu)[0] == "documents"
    for backend in CUDA_BACKENDS:
        with pytest.raises(UserError, match="CUDA"):
            choose_backend(backend, cpu)
    with pytest.raises(UserError, match="unknown"):
        choose_backend("flash", cpu)


@pytest.mark.parametrize("backend", ["varlen", "flash_attention_2"])
def test_kernels_of_16_bits_are_refused_in_float32(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU here, what is missing on the device is left out of the question."""
    monkeypatch.setattr("orca.training.attention._missing", lambda *_: None)
    device = torch.device("cuda")
    assert choose_backend(backend, device, half=True)[0] == backend
    with pytest.raises(UserError, match="16 bits"):
        choose_backend(backend, device, half=False)
