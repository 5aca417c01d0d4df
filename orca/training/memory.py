"""Memory of one rank, by arithmetic: what a training step keeps and what it needs in passing.

The formulas follow this project's training step: float32 master weights, bf16 computation, a loss
that computes the gradient of ``lm_head`` chunk by chunk. FSDP2 gathers bf16 layers, so hidden
states are bf16 there; on one device and under DDP autocast leaves them in float32 and keeps a bf16
copy of every weight for the length of a step. `tests/training/test_plan.py` holds the activations
to the bytes that autograd really saves. Nothing here was compared with the memory of a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from orca.training.flops import attention_width, decoder_layers, linear_weights

GIB = 2**30
STRATEGIES = ("single", "ddp", "fsdp", "hsdp")


@dataclass(frozen=True)
class Shape:
    """What decides a decoder's memory: widths of a layer, numbers of weights.

    ``linear`` of a layer's ``layer`` weights are in linear layers; ``other`` are all weights
    outside of the layers; ``head`` those of ``lm_head``. LoRA of rank r trains
    r × ``lora_per_rank`` weights.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    query: int
    key: int
    layer: int
    linear: int
    other: int
    head: int
    lora_per_rank: int

    @classmethod
    def of(cls, causal_lm: Any, adapted: Sequence[str] | None = None) -> Shape:
        """The shape of a model, which may be on the meta device.

        Args:
            adapted: names of the linear layers that LoRA adapts; None for all.
        """
        config, layers = causal_lm.config, decoder_layers(causal_lm)
        query = attention_width(config)
        groups = config.num_attention_heads // (config.num_key_value_heads or 1)
        linear = linear_weights(layers)
        in_layers = sum(p.numel() for p in layers.parameters())
        return cls(
            layers=len(layers),
            hidden=config.hidden_size,
            ffn=config.intermediate_size,
            heads=config.num_attention_heads,
            query=query,
            key=query // groups,
            layer=in_layers // len(layers),
            linear=sum(weight.numel() for weight in linear) // len(layers),
            other=sum(p.numel() for p in causal_lm.parameters()) - in_layers,
            head=causal_lm.get_output_embeddings().weight.numel(),
            lora_per_rank=sum(
                sum(module.weight.shape)
                for name, module in layers.named_modules()
                if isinstance(module, torch.nn.Linear)
                and (adapted is None or name.rpartition(".")[2] in adapted)
            ),
        )

    @property
    def total(self) -> int:
        return self.layers * self.layer + self.other


@dataclass(frozen=True)
class Setup:
    """The options of a run that decide its memory and its share of work.

    Args:
        mixed: bf16 computation; False for float32.
        reduce_bytes: of a gradient on its way between ranks (FSDP).
        optimizer_bytes: of the optimizer's state for one trained weight.
        lora_rank: None when all weights are trained.
    """

    strategy: str
    devices: int
    nodes: int
    replicas: int = 1
    mixed: bool = True
    reduce_bytes: int = 4
    cpu_offload: bool = False
    checkpointing: str = "none"
    optimizer_bytes: float = 8.0
    lora_rank: int | None = None
    max_tokens: int = 2048
    micro_batch: int = 1
    global_batch: int = 64
    loss_chunk: int = 1024

    @property
    def ranks(self) -> int:
        return self.devices * self.nodes

    @property
    def sharded(self) -> bool:
        return self.strategy in ("fsdp", "hsdp")

    @property
    def shards(self) -> int:
        """Ranks that hold one copy of the weights together."""
        return self.ranks // self.replicas if self.sharded else 1

    @property
    def compute_bytes(self) -> int:
        return 2 if self.mixed else 4

    @property
    def residual_bytes(self) -> int:
        """Of a hidden state between layers."""
        return self.compute_bytes if self.sharded else 4


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank's device (by what holds them) and of its host."""

    device: dict[str, float]
    host: float

    @property
    def total(self) -> float:
        return sum(self.device.values())


def trained_weights(shape: Shape, setup: Setup) -> int:
    """Weights with a gradient."""
    return shape.total if setup.lora_rank is None else setup.lora_rank * shape.lora_per_rank


def weight_bytes(shape: Shape, setup: Setup) -> float:
    """Of all weights of the model, not of one rank. Under LoRA and bf16 computation the frozen
    linear layers are bf16; everything else is float32."""
    if setup.lora_rank is None or not setup.mixed:
        return 4.0 * (shape.total + (trained_weights(shape, setup) if setup.lora_rank else 0))
    frozen = shape.layers * shape.linear
    return 2.0 * frozen + 4.0 * (shape.total - frozen + trained_weights(shape, setup))


def layer_activations(shape: Shape, setup: Setup, checkpointing: str) -> float:
    """Bytes a token that a decoder layer keeps for its backward pass.

    ``none``: each norm its float32 input, its normalised value and 1/rms; every linear layer its
    input; a flash kernel query, key, value, output and log-sum-exp; SiLU and the product of gate
    and up. Autocast casts the input of each linear layer on its own. ``selective``: outputs of
    matrix products and attention, and the layer's input. ``full``: the layer's input alone.
    """
    compute, residual = setup.compute_bytes, setup.residual_bytes
    if checkpointing == "full":
        return residual * shape.hidden
    if checkpointing == "selective":
        outputs = 2 * shape.query + 2 * shape.key + 2 * shape.hidden + 2 * shape.ffn
        return compute * outputs + 4 * shape.heads + residual * shape.hidden
    norms = 2 * (4 * shape.hidden + residual * shape.hidden + 4)
    inputs = (2 if residual == compute else 5) * compute * shape.hidden
    again = 0 if residual == compute else compute * shape.query
    attention = compute * (2 * shape.query + 2 * shape.key) + again + 4 * shape.heads
    return norms + inputs + attention + 4 * compute * shape.ffn


def memory(shape: Shape, setup: Setup, target_share: float) -> Memory:
    """Of one rank at the worst moment of a step, without reserve and fragmentation.

    Args:
        target_share: of a micro-batch's tokens.
    """
    trained, compute = trained_weights(shape, setup), setup.compute_bytes
    kept = {  # DDP's buckets are the gradients themselves
        "weights": weight_bytes(shape, setup) / setup.shards,
        "gradients, float32": 4.0 * trained / setup.shards,
        "optimizer state": setup.optimizer_bytes * trained / setup.shards,
    }
    host = 0.0
    if setup.sharded and setup.cpu_offload:
        host, kept = sum(kept.values()), dict.fromkeys(kept, 0.0)
    if setup.sharded:
        # The layer at work, the next one on its way and the buffer it arrives in; embeddings and
        # lm_head stay from the forward to the end of the backward pass, with their gradient.
        kept["gathered layers"] = compute * (3.0 * shape.layer + 2.0 * shape.other)
    elif setup.mixed and setup.lora_rank is None:
        kept["bf16 copies of weights"] = 2.0 * shape.layers * shape.linear
    tokens = float(setup.micro_batch * setup.max_tokens)
    last_norm = (4 + setup.residual_bytes) * shape.hidden
    a_layer = layer_activations(shape, setup, setup.checkpointing)
    kept["activations"] = tokens * (shape.layers * a_layer + last_norm)
    loss = _loss_bytes(shape, setup, tokens * target_share)
    backward = _backward_bytes(shape, setup, tokens)
    kept["in passing: loss" if loss > backward else "in passing: backward"] = max(loss, backward)
    return Memory(kept, host)


def _loss_bytes(shape: Shape, setup: Setup, targets: float) -> float:
    """Logits of a chunk (float32, and one more copy or two halves), the float32 gradient of
    lm_head and its scaled copy, hidden states of targets and their gradients."""
    rows = shape.head / shape.hidden
    chunk = min(float(setup.loss_chunk), targets)
    gradient = 0.0 if setup.lora_rank is not None else 10.0 * shape.head
    copy = 0.0 if setup.sharded else setup.compute_bytes * shape.head
    hidden = 2 * setup.residual_bytes * targets * shape.hidden
    return 8.0 * chunk * rows + gradient + copy + hidden


def _backward_bytes(shape: Shape, setup: Setup, tokens: float) -> float:
    """What the backward pass of one layer needs: what is computed again, gradients of activations
    (taken as large as the activations), the layer's gradient and two buffers to reduce it in."""
    everything = layer_activations(shape, setup, "none")
    here = layer_activations(shape, setup, setup.checkpointing)
    again = max(everything - here, 0.0) if setup.checkpointing != "none" else 0.0
    reduced = setup.compute_bytes + 2 * setup.reduce_bytes if setup.sharded else 0
    return tokens * (again + everything) + float(reduced * shape.layer)
