"""Plan mode: activations against what autograd saves, counts against real modules, and the whole
command on a machine that has nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.training import Student, plan_report, plan_stage
from orca.training.attention import implementation
from orca.training.flops import decoder_layers, model_flops
from orca.training.memory import GIB, Setup, Shape, layer_activations, memory, trained_weights
from orca.training.plan import _with_adapters, plan_traffic

ORCA_13B = ("experiment=orca_13b", "stage=flan5m_chatgpt", "plan=true")
TOKENS = 192


def llama(dtype: torch.dtype, backend: str) -> Any:
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=128,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation=implementation(backend))
    return model.to(dtype)


def arguments() -> dict[str, Any]:
    """Of one example of ``TOKENS`` tokens."""
    boundaries = torch.tensor([0, TOKENS], dtype=torch.int32)
    return {
        "input_ids": torch.randint(0, 128, (1, TOKENS)),
        "position_ids": torch.arange(TOKENS)[None],
        "use_cache": False,
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": TOKENS,
        "max_length_k": TOKENS,
    }


def saved_bytes(model: Any, autocast: bool) -> int:
    """Bytes that autograd keeps, each storage once, weights and their bf16 copies left out."""
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    copies = {*shapes, *(shape[::-1] for shape in shapes)}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tuple(tensor.shape) not in copies:
            kept[place] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), hooks:
        model.base_model(**arguments())
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def outside_of_layers(model: Any, residual_bytes: int) -> float:
    """Last norm, token ids, cosines and sines."""
    config = model.config
    angles = 2 * residual_bytes * config.hidden_size // config.num_attention_heads
    return TOKENS * ((4 + residual_bytes) * config.hidden_size + 4 + 8 + angles)


@pytest.mark.parametrize(
    ("strategy", "dtype", "backend"),
    [("fsdp", torch.bfloat16, "sdpa"), ("single", torch.float32, "documents")],
)
def test_activations_are_what_autograd_saves(
    strategy: str, dtype: torch.dtype, backend: str
) -> None:
    """To the byte. Under FSDP hidden states are bf16 and a flash kernel's output is the input of
    the next layer (as `sdpa` does for one example here); on one device autocast casts it again (as
    `documents` copies it)."""
    model, setup = llama(dtype, backend), Setup(strategy, 1, 1)
    found = saved_bytes(model, autocast=strategy == "single")
    found -= outside_of_layers(model, setup.residual_bytes)  # type: ignore[assignment]
    formula = layer_activations(Shape.of(model), setup, "none") * 2 * TOKENS
    assert found == formula > 0


def test_full_checkpointing_keeps_the_input_of_a_layer() -> None:
    model, setup = llama(torch.bfloat16, "sdpa"), Setup("fsdp", 1, 1)
    for layer in decoder_layers(model):
        plain = layer.forward
        layer.forward = lambda *a, plain=plain, **k: checkpoint(plain, *a, use_reentrant=False, **k)
    angles = TOKENS * 2 * 2 * 256 // 8  # passed to layers inside a tuple, out of the hooks' sight
    found = saved_bytes(model, autocast=False) - (outside_of_layers(model, 2) - angles)
    assert found == layer_activations(Shape.of(model), setup, "full") * 2 * TOKENS > 0


class MatrixProducts(TorchDispatchMode):
    """Sums the outputs of matrix products and attention kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if name.startswith("aten.mm") or "scaled_dot_product" in name:
            found = result if isinstance(result, tuple) else (result,)
            self.bytes += sum(t.nbytes for t in found if isinstance(t, torch.Tensor))
        return result


def test_selective_checkpointing_keeps_matrix_products_attention_and_the_input() -> None:
    model, setup = llama(torch.bfloat16, "sdpa"), Setup("fsdp", 1, 1)
    with MatrixProducts() as counted:
        model.base_model(**arguments())
    inputs = 2 * TOKENS * 2 * 256
    formula = layer_activations(Shape.of(model), setup, "selective") * 2 * TOKENS
    assert counted.bytes + inputs == formula


def test_a_shape_counts_the_weights_of_the_model() -> None:
    for tied in (True, False):
        config = LlamaConfig(
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            vocab_size=128,
            tie_word_embeddings=tied,
        )
        model = LlamaForCausalLM(config)
        shape = Shape.of(model)
        assert shape.total == sum(p.numel() for p in model.parameters())
        assert shape.layers * shape.linear == sum(
            m.weight.numel() for m in model.model.modules() if isinstance(m, nn.Linear)
        )
        assert shape.head == 64 * 128


def test_adapters_are_counted_as_peft_makes_them() -> None:
    """Weights, and FLOPs: a frozen weight 4, an adapter's 6."""
    from peft import LoraConfig, inject_adapter_in_model

    model = llama(torch.float32, "sdpa")
    shape, plain = Shape.of(model), model_flops(model)
    model.requires_grad_(False)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    inject_adapter_in_model(LoraConfig(r=8, target_modules=targets), model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained_weights(shape, Setup("single", 1, 1, lora_rank=8)) == trained > 0
    assert model_flops(model) == _with_adapters(plain, shape, 8)


def test_more_shards_leave_less_of_the_state_and_all_of_the_activations() -> None:
    shape = Shape.of(llama(torch.float32, "sdpa"))
    parts = [memory(shape, Setup("fsdp", ranks, 1), 0.5).device for ranks in (1, 4)]
    for name in ("weights", "gradients, float32", "optimizer state"):
        assert parts[0][name] == 4 * parts[1][name] > 0
    assert parts[0]["activations"] == parts[1]["activations"] > 0
    hybrid = memory(shape, Setup("hsdp", 4, 2, replicas=2), 0.5).device
    assert hybrid["weights"] == parts[1]["weights"]
    offloaded = memory(shape, Setup("fsdp", 4, 1, cpu_offload=True), 0.5)
    assert offloaded.device["optimizer state"] == 0
    assert offloaded.host == 16 * shape.total / 4


def test_the_plan_of_the_paper_s_run() -> None:
    """13.0 G weights, 16 bytes each over 16 ranks; hours follow from FLOPs, peak and MFU."""
    config = compose_config(*ORCA_13B, "trainer.devices=8", "trainer.num_nodes=2")
    plan = plan_stage(config, "flan5m_chatgpt")
    assert 13.0e9 < plan.shape.total < 13.1e9
    device = plan.memory.device
    state = device["weights"] + device["gradients, float32"] + device["optimizer state"]
    assert state == pytest.approx(16 * plan.shape.total / 16)
    assert plan.fits and not plan.levers and plan.refused is None
    work = plan.work
    assert work.tokens == 5_000_000 * 4 * 620
    assert work.steps == math.ceil(work.tokens / (2048 * 0.988) / 64)
    assert work.hours * 3600 * 16 * 312e12 * 0.4 == pytest.approx(work.flops)
    assert work.flops == pytest.approx(6 * 13e9 * work.tokens, rel=0.05)
    assert plan.traffic.seconds * work.packs == pytest.approx(work.hours * 3600 * 16)
    text = plan_report(plan)
    assert "none" not in text.split("data, ")[1] and "3,200 GPU-hours" in text
    assert "no figure here was compared with a run on a GPU" in text


def test_hsdp_gathers_from_its_own_shards_and_reduces_between_replicas() -> None:
    """Weights of 13 G: 2 bytes gathered twice (embeddings once), 4 bytes reduced; a ring sends
    (n - 1) / n of it."""
    config = compose_config(*ORCA_13B, "trainer.devices=8", "trainer.num_nodes=8")
    plan = plan_stage(config, "flan5m_chatgpt")
    shape, work = plan.shape, plan.work
    twice = 2 * shape.layers * shape.layer + shape.other
    assert plan.traffic.gathered == pytest.approx(2 * twice * 63 / 64)
    assert plan.traffic.reduced == pytest.approx(4 * shape.total * 63 / 64)
    hybrid = replace(plan.setup, strategy="hsdp", replicas=8)
    traffic = plan_traffic(shape, hybrid, work, plan.planning)
    assert traffic.gathered == pytest.approx(2 * twice * 7 / 8)
    between = 2 * 4 * shape.total / 8 * 7 / 8
    assert traffic.reduced == pytest.approx(4 * shape.total * 7 / 8 + between)
    copied = plan_traffic(shape, replace(plan.setup, strategy="ddp"), work, plan.planning)
    assert (copied.gathered, copied.reduced) == (0, pytest.approx(8 * shape.total * 63 / 64))


def test_what_does_not_fit_comes_with_levers_that_do() -> None:
    """Every lever is the plan of the changed configuration."""
    config = compose_config(*ORCA_13B, "trainer.devices=4", "planning.device=a100-40gb")
    plan = plan_stage(config, "flan5m_chatgpt")
    assert not plan.fits
    levers = {lever.options: lever for lever in plan.levers}
    assert any(lever.fits for lever in plan.levers)
    full = replace(plan.setup, checkpointing="full")
    again = plan.planning.needed(memory(plan.shape, full, plan.work.lengths.target_share))
    assert levers["activation_checkpointing=full"].needed == again < plan.needed
    (more,) = (options for options in levers if options.startswith("trainer.devices"))
    larger = plan_stage(
        compose_config(*ORCA_13B, *more.split(), "planning.device=a100-40gb"), plan.name
    )
    assert larger.needed == levers[more].needed and larger.fits
    assert "does not fit" in plan_report(plan)


def test_one_small_gpu_is_told_what_would_help_together() -> None:
    config = compose_config(
        *ORCA_13B, "strategy=single", "trainer.devices=1", "planning.memory_gib=40"
    )
    plan = plan_stage(config, "flan5m_chatgpt")
    fitting = [lever for lever in plan.levers if lever.fits and "lora" in lever.options]
    assert fitting and "activation_checkpointing=full" in fitting[-1].options
    assert fitting[-1].needed <= 40 * GIB


def test_a_run_that_training_would_refuse_is_told_so() -> None:
    config = compose_config(*ORCA_13B, "trainer.devices=4", "trainer.num_nodes=5")
    refused = plan_stage(config, "flan5m_chatgpt").refused
    assert refused is not None and "data.global_batch=80" in refused


def test_a_data_card_s_lengths_take_the_place_of_the_assumed(tmp_path: Path) -> None:
    card = {
        "title": "openorca, chatgpt",
        "totals": {
            "examples": 100,
            "tokens": 40_000,
            "target_tokens": 10_000,
            "sum_of_squares": 32_000_000,
        },
        "capacity": 2048,
        "fill": 0.9,
    }
    file = tmp_path / "data_card.json"
    file.write_text(json.dumps(card))
    config = compose_config(*ORCA_13B, f"planning.data_card={file}")
    lengths = plan_stage(config, "flan5m_chatgpt").work.lengths
    assert (lengths.tokens_per_example, lengths.target_share, lengths.spread) == (400, 0.25, 2.0)
    other = compose_config("experiment=orca_13b", "stage=flan1m_gpt4", f"planning.data_card={file}")
    with pytest.raises(UserError, match="Plan one stage at a time"):
        plan_stage(other, "flan1m_gpt4")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("planning.device=h1000", r"planning\.device='h1000' is unknown.*h100"),
        ("planning.mfu=1.5", r"planning\.mfu"),
        ("trainer.devices=auto", r"trainer\.devices as a number"),
        ("planning.data_card=/nowhere.json", r"/nowhere\.json"),
    ],
)
def test_wrong_assumptions_are_sentences(override: str, message: str) -> None:
    config = compose_config(*ORCA_13B, override)
    with pytest.raises(Exception) as found:
        plan_stage(config, "flan5m_chatgpt")
    error: BaseException | None = found.value
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    assert error is not None
    import re

    assert re.search(message, str(error))


def test_the_command_needs_no_gpu_no_hub_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["HF_HOME"] = environment["ORCA_CACHE"] = str(tmp_path / "cache")
    command = [sys.executable, str(CONF_DIR.parent / "train.py"), *ORCA_13B]
    command += ["trainer.devices=8", "trainer.num_nodes=2", f"paths.runs={tmp_path / 'runs'}"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "GPU-hours" in done.stdout and "plan of flan5m_chatgpt" in done.stdout
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("config.yaml"))


def test_the_loss_holds_what_the_plan_says(tokenizer: Any) -> None:
    """Saved for the backward pass: hidden gradients of targets and lm_head's float32 gradient."""
    from orca.stream import MicroBatch

    model = llama(torch.float32, "documents")
    student = Student(model, loss_chunk=32)
    labels = torch.full((1, TOKENS), -100)
    labels[0, 64:-1] = 5
    given = arguments()
    batch = MicroBatch(
        given["input_ids"], given["position_ids"], labels, given["cu_seq_lens_q"], TOKENS
    )
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student(batch)
    targets = TOKENS - 65
    assert any(t.shape == (128, 256) and t.dtype == torch.float32 for t in kept[-2:])
    assert any(t.shape == (targets, 256) for t in kept[-2:])
    assert not any(t.shape == (TOKENS, 128) or t.shape == (targets, 128) for t in kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["data.global_batch=0"], r"data\.global_batch=0"),
        (["data.max_tokens=256"], "tokens_per_example=620 does not fit"),
        (["planning.memory_gib=0"], "memory_gib=0"),
        (["strategy=hsdp"], "one copy of the model"),
        (["liger=true", "compile=true"], "take one of them"),
        (["compile=true", "attention=documents"], "cannot be compiled"),
        (["precision=foo"], "precision='foo'"),
        (["optimizer.lr=-1"], "lr=-1"),
        (["callbacks.checkpoints.keep=0"], "keep=0"),
        (["strategy.strategy.reduce_dtype=float16"], "float32 or bfloat16"),
        (["strategy.strategy.reduce_dtype=bfloat16", "precision=32-true"], "bf16-mixed"),
        (["strategy.strategy.replicas=-2"], "at least 1"),
    ],
)
def test_a_plan_refuses_what_training_refuses(options: list[str], words: str) -> None:
    config = compose_config("experiment=orca_13b", *options)
    with pytest.raises(UserError, match=words):
        plan_stage(config, "flan5m_chatgpt")


def test_a_plan_counts_the_adapters_that_are_asked_for() -> None:
    options = ["experiment=orca_13b", "strategy=ddp", "model/adapter=lora"]
    every = plan_stage(compose_config(*options), "flan5m_chatgpt")
    config = compose_config(*options, "model.adapter.target_modules=[q_proj]")
    one = plan_stage(config, "flan5m_chatgpt")
    assert one.trained == 40 * 16 * (5120 + 5120) < every.trained
