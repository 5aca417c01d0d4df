"""Memory levers change memory and time, and not what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory_levers_cpu import KeptBytes
from test_attention import pack_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from orca.errors import UserError
from orca.training import CHECKPOINTING, Levers, Student, choose_backend, implementation

CPU = torch.device("cpu")
PACKS = [pack_of(lengths) for lengths in ((37, 5, 64), (20, 9, 33, 7), (130,), (50, 51, 2, 3))]
"""Of different lengths and numbers of examples; one without a boundary."""


def student(levers: Levers, backend: str) -> Student:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(implementation(backend))
    levers.apply(model, CPU)
    return Student(model).train()


def gradients(levers: Levers, backend: str) -> list[torch.Tensor]:
    trained = student(levers, backend)
    for pack in PACKS:
        trained(pack).backward()
    return [parameter.grad for parameter in trained.parameters()]


@pytest.mark.parametrize("backend", ["documents", "sdpa"])
@pytest.mark.parametrize("mode", CHECKPOINTING[1:])
def test_gradients_do_not_depend_on_what_is_computed_again(mode: str, backend: str) -> None:
    plain = gradients(Levers(), backend)
    assert all(bool(gradient.abs().sum() > 0) for gradient in plain)
    for got, wanted in zip(gradients(Levers(mode), backend), plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["documents", "sdpa"])
def test_less_is_kept_for_the_backward_pass_from_none_to_full(backend: str) -> None:
    kept = {}
    for mode in CHECKPOINTING:
        trained = student(Levers(mode), backend)
        with KeptBytes() as memory:
            loss = trained(PACKS[0])
            kept[mode] = memory.total()
        loss.backward()
    assert 0.7 * kept["none"] > kept["selective"] and 0.7 * kept["selective"] > kept["full"] > 0


def test_selective_checkpointing_repeats_no_matrix_product_and_no_attention() -> None:
    """The operators of the backward pass, counted: forward kernels appear there in mode full."""

    class Counted(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    found = {}
    for mode in CHECKPOINTING:
        loss = student(Levers(mode), "documents")(PACKS[0])
        with Counted() as counted:
            loss.backward()
        attention = "aten._scaled_dot_product_flash_attention_for_cpu.default"
        found[mode] = (counted.names.count("aten.mm.default"), counted.names.count(attention))
        assert ("aten.silu.default" in counted.names) == (mode != "none")
    assert found["none"] == found["selective"] and found["none"][1] == 0
    # 3 layers of 7 products (the last need not be repeated), and of attention over 3 examples
    assert found["full"][0] >= found["none"][0] + 18 and found["full"][1] == 9


def test_the_attention_operators_of_every_backend_are_kept() -> None:
    """By name for those of packages that are not here: an operator is registered to stand there."""
    from torch.utils.checkpoint import CheckpointPolicy

    from orca.training.levers import keep_expensive

    library = torch.library.Library("flash_attn_test", "DEF")
    library.define("_flash_attn_varlen_forward(Tensor q) -> Tensor")
    library.define("_flash_attn_varlen_backward(Tensor q) -> Tensor")
    own = torch.ops.flash_attn_test
    kept = [
        own._flash_attn_varlen_forward.default,
        torch.ops.torch_attn._varlen_attn.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.higher_order.flex_attention,
    ]
    assert all(keep_expensive(None, op) == CheckpointPolicy.MUST_SAVE for op in kept)
    repeated = [own._flash_attn_varlen_backward.default, torch.ops.aten.silu.default]
    assert all(keep_expensive(None, op) == CheckpointPolicy.PREFER_RECOMPUTE for op in repeated)


@pytest.mark.slow
@pytest.mark.parametrize("mode", CHECKPOINTING)
def test_compiled_layers_give_the_same_gradients_for_packs_of_any_length(mode: str) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = gradients(Levers(), "sdpa")
    for got, wanted in zip(gradients(Levers(mode, compile=True), "sdpa"), plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-5)
    # One for the first length, one for all others, one without a mask: shared by all layers.
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


@pytest.mark.slow
def test_compiled_logits_are_the_models_own_and_generation_is_not_compiled() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = (student(Levers(compile=on), "sdpa") for on in (False, True))
    for pack in PACKS[:2]:
        ours, theirs = (s.hidden_states(pack) for s in (compiled, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    ids = torch.tensor([[1, 2, 3]])
    new = [s.causal_lm.generate(ids, max_new_tokens=5, do_sample=False) for s in (compiled, plain)]
    assert torch.equal(*new) and torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_a_loop_over_examples_is_not_compiled() -> None:
    assert choose_backend("auto", CPU, compiled=True)[0] == "sdpa"
    assert "compile=true" in choose_backend("auto", CPU, compiled=True)[1]
    with pytest.raises(UserError, match=r"attention=documents cannot be compiled.*attention=sdpa"):
        choose_backend("documents", CPU, compiled=True)


def test_the_varlen_backend_is_one_graph() -> None:
    """Traced without running (the kernel is CUDA's): a break in the graph would be an error."""
    from orca.training.attention import _varlen_attention

    def attend(q: Any, k: Any, v: Any, boundaries: Any, longest: int, **others: Any) -> Any:
        return _varlen_attention(None, q, k, v, None, 0.0, 0.25, boundaries, longest, **others)[0]

    queries, keys = torch.randn(1, 4, 30, 16), torch.randn(1, 2, 30, 16)
    boundaries = torch.tensor([0, 10, 30], dtype=torch.int32)
    graph = torch._dynamo.export(attend)(
        queries, keys, keys, boundaries, 20, sliding_window=None, position_ids=boundaries
    )
    assert graph.graph_module.code.count("torch.ops.torch_attn._varlen_attn(") == 1


def test_mistakes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"activation_checkpointing='some'.*none, selective, full"):
        Levers("some")
    with pytest.raises(UserError, match="liger=true and compile=true"):
        Levers(compile=True, liger=True)
    model = student(Levers(), "sdpa").causal_lm
    with pytest.raises(UserError, match="liger=true needs a CUDA device"):
        Levers(liger=True).apply(model, CPU)
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="liger-kernel is not installed"):
        Levers(liger=True).apply(model, torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_liger_gives_the_same_gradients() -> None:
    pytest.importorskip("liger_kernel")
    from transformers.models.llama import modeling_llama

    packs, found = [pack.to("cuda") for pack in PACKS], []
    before = dict(vars(modeling_llama))
    for on in (False, True):
        trained = student(Levers(), "sdpa").cuda()
        if on:
            Levers(liger=True).apply(trained.causal_lm, torch.device("cuda"))
        for pack in packs:
            trained(pack).backward()
        found.append([parameter.grad for parameter in trained.parameters()])
    vars(modeling_llama).update(before)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
