"""The arithmetic of a step against PyTorch's own counter, and the table of peaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from orca.errors import UserError
from orca.training import flops

LENGTH = 48


def llama(**changes: Any) -> Any:
    options = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        **changes,
    }
    return LlamaForCausalLM._from_config(LlamaConfig(**options), attn_implementation="sdpa")


def counted(model: Any) -> tuple[int, int]:
    """(linear layers, attention) of forward and backward over one example, all of it targets."""
    ids = torch.randint(0, 128, (1, LENGTH))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # other kernels are not counted on the CPU
        model(ids, use_cache=False).logits.sum().backward()
    by_kind = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    assert set(by_kind) == {"aten.mm", "aten.bmm"}
    return by_kind["aten.mm"], by_kind["aten.bmm"]


@pytest.mark.parametrize("tied", [False, True])
def test_the_flops_are_those_that_pytorch_counts(tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    linear, attention = counted(model)
    ours = flops.model_flops(model)
    assert ours.of(LENGTH, LENGTH, 0) == linear > 0
    # The counter sees the whole square of scores, the convention counts its causal half.
    assert 2 * ours.of(0, 0, LENGTH**2) == attention > 0


def test_a_frozen_weight_costs_no_gradient_of_its_own() -> None:
    """Linear layers behind the first trained weight, as those of LoRA's base."""
    model = llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "embed" in name or "o_proj" in name
    linear, _ = counted(model)
    assert flops.model_flops(model).of(LENGTH, LENGTH, 0) == linear


def test_the_meta_model_of_13b_gives_the_known_size() -> None:
    """12.7 G weights in the layers; 6·N holds, and lm_head counts for targets alone."""
    with torch.device("meta"):
        model = llama(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            num_key_value_heads=40,
            vocab_size=32000,
        )
    ours = flops.model_flops(model)
    assert ours.per_token == 6 * 40 * (4 * 5120**2 + 3 * 5120 * 13824)
    assert ours.per_target == 6 * 32000 * 5120
    assert ours.per_square == 6 * 40 * 5120


def test_experts_are_refused_and_not_counted_wrongly() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        vocab_size=64,
        num_attention_heads=4,
    )
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    with pytest.raises(UserError, match="mixtral"):
        flops.model_flops(model)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H800", None),
        ("Tesla T4", None),
    ],
)
def test_a_device_that_is_not_in_the_table_has_no_peak(name: str, peak: float | None) -> None:
    assert flops.peak_flops(name) == peak


def test_no_mfu_where_no_peak_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def reference(device: str, precision: str) -> Any:
        return flops.mfu_reference(torch.device(device), precision)

    def named(name: str) -> None:
        monkeypatch.setattr(torch, "cuda", SimpleNamespace(get_device_name=lambda device: name))

    assert reference("cpu", "bf16-mixed") == (None, "no MFU: no peak is known for this cpu")
    named("NVIDIA H100 80GB HBM3")
    sentence = "MFU against 989 TFLOP/s (NVIDIA H100 80GB HBM3, dense bf16)"
    assert reference("cuda", "bf16-mixed") == (989e12, sentence)
    assert reference("cuda", "32-true")[0] is None
    named("NVIDIA Unheard-of")
    assert reference("cuda", "bf16-mixed")[0] is None
