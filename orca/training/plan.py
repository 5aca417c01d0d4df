"""Plan mode: what a run would need, from its configuration alone.

No GPU, weights, tokenizer or data are touched: the model is built on the meta device, lengths come
from a data card or from stated assumptions. `plan_report` prints what is computed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from orca.errors import UserError
from orca.training.flops import ModelFlops, model_flops
from orca.training.memory import (
    STRATEGIES,
    Memory,
    Setup,
    Shape,
    memory,
    trained_weights,
    weight_bytes,
)
from orca.training.plan_checks import check_options, refused
from orca.training.plan_levers import EIGHT_BIT, Lever, levers
from orca.training.planning import Lengths, Planning
from orca.training.pretrained import Pretrained
from orca.training.stage import Stage


@dataclass(frozen=True)
class Work:
    """What a stage computes, and the time it takes at the assumed MFU."""

    lengths: Lengths
    source: str
    epochs: float
    packs: float
    steps: int
    tokens: float
    targets: float
    flops: float
    hours: float


@dataclass(frozen=True)
class Traffic:
    """What a rank sends between ranks for one micro-batch, in bytes, and the seconds that the
    micro-batch computes at the assumed MFU."""

    gathered: float
    reduced: float
    seconds: float


@dataclass(frozen=True)
class StagePlan:
    """Everything that the report says of a stage; ``staged_bytes`` is the host memory of a node
    that holds a checkpoint while it is written."""

    name: str
    part: str
    model: str
    shape: Shape
    setup: Setup
    planning: Planning
    memory: Memory
    needed: float
    levers: list[Lever]
    work: Work
    traffic: Traffic
    checkpoint_bytes: float
    checkpoints_kept: int
    staged_bytes: float
    best_bytes: float
    export_bytes: float
    refused: str | None

    @property
    def fits(self) -> bool:
        return self.needed <= self.planning.room

    @property
    def trained(self) -> int:
        return trained_weights(self.shape, self.setup)


def plan_stage(config: DictConfig, name: str) -> StagePlan:
    """The plan of stage ``name``.

    Raises:
        UserError: the configuration leaves open what a plan needs.
    """
    check_options(config)
    planning: Planning = instantiate(config.planning, _convert_="object")
    stage: Stage = instantiate(config.stages[name])
    pretrained: Pretrained = instantiate(config.model)
    setup = read_setup(config)
    causal_lm = meta_model(pretrained, len(config.template.special_tokens))
    targets = OmegaConf.select(config, "model.adapter.target_modules", default=None)
    shape, flops = Shape.of(causal_lm, targets), model_flops(causal_lm)
    if setup.lora_rank is not None:
        flops = _with_adapters(flops, shape, setup.lora_rank)
    lengths, fill, source = planning.lengths(stage.part, setup.max_tokens)
    work = plan_work(lengths, fill, source, stage.epochs, flops, setup, planning)
    if 0 < config.trainer.max_steps < work.steps:
        work = _cut(work, config.trainer.max_steps)
    share = lengths.target_share
    found = memory(shape, setup, share)
    needed = planning.needed(found)
    # Frozen weights are not in a checkpoint: they are read again from where they came.
    lora = setup.lora_rank is not None
    weights = 4.0 * trained_weights(shape, setup) if lora else weight_bytes(shape, setup)
    state = setup.optimizer_bytes * trained_weights(shape, setup)
    export = {"float32": 4, "bfloat16": 2}[pretrained.export_dtype]
    keep = OmegaConf.select(config, "callbacks.checkpoints.keep", default=0)
    best = OmegaConf.select(config, "callbacks.checkpoints.best", default=False)
    staged = OmegaConf.select(config, "callbacks.checkpoints.asynchronous", default=False)
    return StagePlan(
        name=name,
        part=stage.part,
        model=pretrained.name,
        shape=shape,
        setup=setup,
        planning=planning,
        memory=found,
        needed=needed,
        levers=levers(shape, setup, planning, share) if needed > planning.room else [],
        work=work,
        traffic=plan_traffic(shape, setup, work, planning),
        checkpoint_bytes=weights + state,
        checkpoints_kept=keep,
        staged_bytes=setup.devices * (weights + state) / setup.shards if staged else 0.0,
        # A model directory too; while a better one is written there are two.
        best_bytes=2.0 * export * shape.total if best else 0.0,
        export_bytes=float(export * shape.total),
        refused=refused(setup),
    )


def meta_model(pretrained: Pretrained, added: int) -> Any:
    """The model without weights, its embeddings grown for ``added`` tokens and the pad token."""
    bare = pretrained.meta_model()
    rows = bare.get_input_embeddings().weight.shape[0]
    return pretrained.meta_model(rows + added + 1)


def read_setup(config: DictConfig) -> Setup:
    """The options that decide memory and share of work.

    Raises:
        UserError: an option that a plan cannot read.
    """

    def option(key: str, default: Any) -> Any:
        return OmegaConf.select(config, key, default=default)

    for key in ("devices", "num_nodes"):
        if not isinstance(config.trainer[key], int) or config.trainer[key] < 1:
            raise UserError(
                f"plan=true needs trainer.{key} as a number, not {config.trainer[key]!r}"
            )
    if config.strategy.name not in STRATEGIES:
        raise UserError(
            f"plan=true knows strategy {', '.join(STRATEGIES)}, not {config.strategy.name!r}"
        )
    adapter = config.model.adapter
    half_reduce = option("strategy.strategy.reduce_dtype", "float32") == "bfloat16"
    eight_bit = str(config.optimizer._target_).endswith("8bit")
    return Setup(
        strategy=config.strategy.name,
        devices=config.trainer.devices,
        nodes=config.trainer.num_nodes,
        replicas=option("strategy.strategy.replicas", 1),
        mixed=config.precision != "32-true",
        reduce_bytes=2 if half_reduce and config.precision != "32-true" else 4,
        cpu_offload=bool(option("strategy.strategy.cpu_offload", False)),
        checkpointing=config.activation_checkpointing,
        optimizer_bytes=EIGHT_BIT if eight_bit else 8.0,
        lora_rank=adapter.rank if adapter is not None else None,
        max_tokens=config.data.max_tokens,
        micro_batch=config.data.micro_batch,
        global_batch=config.data.global_batch,
        loss_chunk=config.loss_chunk,
    )


def plan_work(
    lengths: Lengths,
    fill: float,
    source: str,
    epochs: float,
    flops: ModelFlops,
    setup: Setup,
    planning: Planning,
) -> Work:
    """Steps, tokens and hours of a stage."""
    examples = lengths.examples * epochs
    tokens = examples * lengths.tokens_per_example
    squares = examples * lengths.spread * lengths.tokens_per_example**2
    packs = tokens / (setup.max_tokens * fill)
    total = flops.of(tokens, tokens * lengths.target_share, squares)
    speed = setup.ranks * planning.hardware.peak * planning.mfu
    return Work(
        lengths=lengths,
        source=source,
        epochs=epochs,
        packs=packs,
        steps=math.ceil(packs / setup.global_batch),
        tokens=tokens,
        targets=tokens * lengths.target_share,
        flops=total,
        hours=total / speed / 3600,
    )


def plan_traffic(shape: Shape, setup: Setup, work: Work, planning: Planning) -> Traffic:
    """Traffic of a micro-batch with ring collectives.

    FSDP gathers layers for the forward and again for the backward pass, the rest once, and reduces
    all gradients; HSDP adds an all-reduce of each shard between replicas; DDP reduces everything.
    """
    gathered = reduced = 0.0
    others = 1 - 1 / setup.shards
    if setup.sharded:
        gathered = setup.compute_bytes * (2.0 * shape.layers * shape.layer + shape.other) * others
        reduced = setup.reduce_bytes * shape.total * others
    copies = setup.ranks / setup.shards
    size = setup.reduce_bytes if setup.sharded else 4
    reduced += 2 * size * trained_weights(shape, setup) / setup.shards * (1 - 1 / copies)
    flops = work.flops / work.packs * setup.micro_batch
    return Traffic(gathered, reduced, flops / (planning.hardware.peak * planning.mfu))


def _with_adapters(flops: ModelFlops, shape: Shape, rank: int) -> ModelFlops:
    """FLOPs with a frozen model (4 a weight and use) and trained adapters (6)."""
    adapters = 6.0 * rank * shape.lora_per_rank
    return ModelFlops(
        flops.per_token * 4 / 6 + adapters, flops.per_target * 4 / 6, flops.per_square
    )


def _cut(work: Work, steps: int) -> Work:
    """The work of a run that ``trainer.max_steps`` ends."""
    share = steps / work.steps
    parts = {n: getattr(work, n) * share for n in ("packs", "tokens", "targets", "flops", "hours")}
    return replace(work, steps=steps, **parts)
