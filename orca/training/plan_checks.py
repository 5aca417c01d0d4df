"""What a plan refuses, as training would: a plan of a run that cannot start helps nobody."""

from __future__ import annotations

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from orca.errors import UserError
from orca.training.attention import BACKENDS
from orca.training.levers import Levers
from orca.training.memory import Setup
from orca.training.precision import PRECISIONS
from orca.training.strategies import check_strategy


def check_options(config: DictConfig) -> None:
    """Build what training would build, as far as that needs no device, weights or data.

    Raises:
        UserError: an option that training would refuse.
    """
    for key in ("data.global_batch", "data.micro_batch", "data.max_tokens", "loss_chunk"):
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config)[name]
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{key}={value} must be a number of at least 1")
    for key, known in (("precision", PRECISIONS), ("attention", BACKENDS)):
        if config[key] not in ("auto", *known):
            raise UserError(f"{key}={config[key]!r} is unknown. Known: auto, {', '.join(known)}")
    Levers(config.activation_checkpointing, config.compile, config.liger)
    if config.compile and config.attention == "documents":
        raise UserError("attention=documents cannot be compiled. Take another, or compile=false")
    try:
        instantiate(config.planning, _convert_="object")
        instantiate(config.optimizer)
        instantiate(config.scheduler)
        strategy = instantiate(config.strategy.strategy)
        if "checkpoints" in config.callbacks and config.callbacks.checkpoints is not None:
            instantiate(config.callbacks.checkpoints, directory=".")
    except InstantiationException as error:
        raise error.__cause__ or error from None
    if config.model.adapter is not None:
        instantiate(config.model).adapter.check(config.strategy.name, None, None)
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if isinstance(devices, int) and isinstance(nodes, int):
        precision = "bf16-mixed" if config.precision == "auto" else config.precision
        check_strategy(
            config.strategy.name, strategy, torch.device("cuda"), devices * nodes, precision
        )


def refused(setup: Setup) -> str | None:
    """Why training would not start as configured, or None."""
    if setup.strategy == "single" and setup.ranks > 1:
        return f"strategy=single trains on one device, {setup.ranks} are asked for"
    share = setup.ranks * setup.micro_batch
    if setup.global_batch % share:
        return (
            f"data.global_batch={setup.global_batch} is no multiple of ranks × data.micro_batch = "
            f"{setup.ranks} × {setup.micro_batch}. Take data.global_batch="
            f"{-(-setup.global_batch // share) * share}"
        )
    return None
