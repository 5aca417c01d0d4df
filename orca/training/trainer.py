"""The Lightning Trainer of a stage: from configuration, with this project's fixed choices."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from orca.errors import UserError
from orca.training.loggers import MetricsCsv
from orca.training.precision import choose_precision
from orca.training.ranks import is_rank, on_rank_zero, world
from orca.training.report import git_commit
from orca.training.strategies import OneDevice, check_strategy
from orca.training.wandb_run import run_facts

SET_BY_PROGRAM: dict[str, Any] = {
    "max_epochs": 1,  # one fit "epoch" is the whole stage: epochs are the stream's
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # Lightning would shuffle away the curriculum
    "enable_model_summary": False,
    "enable_progress_bar": False,  # callbacks.progress shows the run
}
"""Arguments of the Trainer that are not configuration."""


NOT_OURS = {
    "precision": "precision=…",
    "strategy": "strategy=…",
    "logger": "logger=…",
    "callbacks": "callbacks.…",
    "enable_checkpointing": "callbacks.checkpoints=null",
    "plugins": "strategy=… or precision=…",
    "default_root_dir": "run=… and paths.runs=…",
    "accumulate_grad_batches": "data.global_batch=… and data.micro_batch=…",
    "gradient_clip_val": "gradient_clip=…",
    "gradient_clip_algorithm": "gradient_clip=…, which is the norm",
    "limit_train_batches": "trainer.max_steps=…",
    "overfit_batches": "a small file as data.parts.…",
    "fast_dev_run": "trainer.max_steps=1",
    "min_steps": "trainer.max_steps=…",
    "min_epochs": "epochs=…",
    "reload_dataloaders_every_n_epochs": "epochs=…",
}
"""Arguments of the Trainer that options of ours stand for, or that would break a run."""


def build_trainer(
    config: DictConfig, name: str, directory: Path, fixed_callbacks: Sequence[Callback] = ()
) -> L.Trainer:
    """The Lightning Trainer of a stage, with this project's fixed choices."""
    device = _device(config.trainer.accelerator, config.trainer.devices)
    precision, reason = choose_precision(config.precision, device)
    on_rank_zero(lambda: print(f"device: {device}; precision: {precision} ({reason})", flush=True))
    strategy = OneDevice(device)
    environment: ClusterEnvironment = LightningEnvironment()
    if config.strategy.strategy is not None:
        strategy = instantiate(config.strategy.strategy)
        check_strategy(config.strategy.name, strategy, device, world()[1], precision)
    if is_rank():
        environment = TorchElasticEnvironment()  # join_ranks has seen to its variables
    loggers: list[Any] = [MetricsCsv(directory)]
    if config.logger is not None and "_target_" in config.logger:
        loggers.append(_logger(config, name, directory))
    callbacks = [*fixed_callbacks] + [
        instantiate(callback, **_directory(callback, directory))
        for callback in config.callbacks.values()
        if callback is not None
    ]
    options = instantiate(config.trainer)
    known = inspect.signature(L.Trainer.__init__).parameters
    for key in options:
        if key in SET_BY_PROGRAM:
            raise UserError(f"trainer.{key} is set by the program; epochs=N sets the passes")
        if key in NOT_OURS:
            raise UserError(f"trainer.{key} does nothing good here. Take {NOT_OURS[key]}")
        if key not in known:
            raise UserError(f"trainer.{key} is no argument of lightning.Trainer")
    try:
        return L.Trainer(
            **options,
            **SET_BY_PROGRAM,
            # Without one of ours Lightning would bring its own, which knows no such strategy.
            enable_checkpointing=any(isinstance(one, Checkpoint) for one in callbacks),
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            logger=loggers,
            callbacks=callbacks,
            plugins=[environment],
            default_root_dir=directory,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(f"the Trainer cannot be built as configured: {error}") from None


def _logger(config: DictConfig, stage: str, directory: Path) -> Any:
    """The configured logger, told who the run is and what it can be found by."""
    run = run_facts(config, stage, directory)
    found_by = [run[name] for name in ("stage", "model", "data", "arm") if run[name]]
    logger = instantiate(
        config.logger,
        directory=str(directory),
        name=run["name"],
        job_type=stage,
        tags=[*config.logger.tags, *found_by],
    )
    resolved = OmegaConf.to_container(config, resolve=True)
    logger.log_hyperparams({**run, "config": resolved, "git_commit": git_commit()})
    return logger


def _device(accelerator: str, devices: Any) -> torch.device:
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        if torch.backends.mps.is_available():
            accelerator = "mps"
    kind = {"gpu": "cuda"}.get(accelerator, accelerator)
    if kind != "cuda":
        return torch.device(kind)
    alone = devices[0] if isinstance(devices, Sequence) and len(devices) == 1 else 0
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", alone)))


def _directory(callback: DictConfig, directory: Path) -> dict[str, str]:
    """A callback that says ``directory: ???`` is given the stage's."""
    return {"directory": str(directory)} if OmegaConf.is_missing(callback, "directory") else {}
