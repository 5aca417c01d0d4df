"""One stage, from configuration to ``hf/``: the body of `train.py`, to be read top to bottom."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from orca.errors import UserError
from orca.stream import TraceDataModule
from orca.training.checkpoint import AtomicCheckpointIO, newest_checkpoint
from orca.training.export import check_handoff, export
from orca.training.loggers import MetricsCsv
from orca.training.module import ExplanationTuning
from orca.training.precision import choose_precision
from orca.training.ranks import join_ranks, on_rank_zero
from orca.training.report import git_commit, model_card, plot_loss, summarise
from orca.training.sharding import full_state

RESULTS_FILE = "results.json"
MAY_DIFFER = (
    *("resume", "overwrite", "callbacks", "logger", "paths", "strategy"),
    *("data.num_workers", "data.micro_batch"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "max_time")),
    *(f"trainer.{key}" for key in ("val_check_interval", "limit_val_batches", "log_every_n_steps")),
)
"""Options that may change when a run is resumed: they change numbers by rounding at most."""


@dataclass(frozen=True)
class Stage:
    """A stage of progressive learning.

    Args:
        part: part of the data that it trains on.
        epochs: passes over that part.
        lr_scale: factor on ``optimizer.lr``.
        start_from: ``base``, the name of an earlier stage, or a ``hf/`` directory.
    """

    part: str
    epochs: int
    lr_scale: float
    start_from: str


def train_stage(config: DictConfig, name: str) -> dict[str, Any]:
    """Train stage ``name`` and return its results (also in ``results.json``)."""
    stage: Stage = instantiate(config.stages[name])
    directory = Path(config.paths.run_dir) / name
    own = copy.deepcopy(config)
    own.stages = {name: config.stages[name]}  # what the other stages are does not matter here
    join_ranks()
    finished, checkpoint = on_rank_zero(lambda: open_run(directory, own))
    if finished:
        print(f"{directory} is finished; its results stand.", flush=True)
        return json.loads((directory / RESULTS_FILE).read_text(encoding="utf-8"))
    started = time.time()
    L.seed_everything(config.seed, workers=True, verbose=False)

    pretrained = instantiate(config.model)
    template = instantiate(config.template)
    on_rank_zero(pretrained.prepare)
    tokenizer = pretrained.tokenizer()
    template.prepare(tokenizer)
    # Partial, because instantiate() would turn the template (a dataclass) into a configuration.
    datamodule: TraceDataModule = instantiate(config.data, _partial_=True)(
        part=stage.part, epochs=stage.epochs, tokenizer=tokenizer, template=template
    )
    fingerprint = datamodule.encoder.fingerprint()
    start_from = on_rank_zero(lambda: find_start(stage.start_from, config, fingerprint))
    module = ExplanationTuning(
        pretrained=pretrained,
        tokenizer=tokenizer,
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler),
        attention=config.attention,
        gradient_clip=config.gradient_clip,
        lr_scale=stage.lr_scale,
        loss_chunk=config.loss_chunk,
        start_from=start_from,
        seed=config.seed,
    )
    trainer = build_trainer(config, name, directory)
    _announce(config, name, stage, start_from, trainer, datamodule)

    csv = next(logger for logger in trainer.loggers if isinstance(logger, MetricsCsv))
    csv.cut(checkpoint[0] if checkpoint else 0)
    if checkpoint is None:
        on_rank_zero(lambda: (directory / "samples.jsonl").unlink(missing_ok=True))
        if datamodule.held_out_traces():
            trainer.validate(module, datamodule, verbose=False)
            csv.log_metrics({"val/loss": float(trainer.callback_metrics["val/loss"])}, 0)
    else:
        print(f"resuming after step {checkpoint[0]} from {checkpoint[1]}", flush=True)
    trainer.fit(
        module, datamodule, ckpt_path=str(checkpoint[1]) if checkpoint else None, weights_only=True
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    if datamodule.held_out_traces():
        trainer.validate(module, datamodule, verbose=False)
        csv.log_metrics(
            {"val/loss": float(trainer.callback_metrics["val/loss"])}, trainer.global_step
        )
    state = full_state(module.student.causal_lm)
    if not trainer.is_global_zero:
        return {}

    datamodule.save_card(directory)
    plot_loss(directory)
    results = summarise(directory, datamodule, name, time.time() - started)
    results["handoff"] = export(
        module.student.causal_lm,
        state,
        tokenizer,
        directory / "hf",
        dtype=pretrained.export_dtype,
        stage=name,
        fingerprint=fingerprint,
        card=model_card(config, name, results, datamodule),
    )
    (directory / RESULTS_FILE).write_text(json.dumps(results, indent=1), encoding="utf-8")
    _finish_wandb(trainer, results, directory)
    return results


def build_trainer(config: DictConfig, name: str, directory: Path) -> L.Trainer:
    """The Lightning Trainer of a stage, with this project's fixed choices."""
    device = _device(config.trainer.accelerator)
    precision, reason = choose_precision(config.precision, device)
    print(f"device: {device}; precision: {precision} ({reason})", flush=True)
    strategy = config.strategy.strategy
    loggers: list[Any] = [MetricsCsv(directory)]
    if config.logger is not None and "_target_" in config.logger:
        loggers.append(
            instantiate(config.logger, directory=str(directory), name=f"{config.run}-{name}")
        )
        _log_config(loggers[-1], config)
    callbacks = [
        instantiate(callback, **_directory(callback, directory))
        for callback in config.callbacks.values()
        if callback is not None
    ]
    return L.Trainer(
        **instantiate(config.trainer),
        strategy=instantiate(strategy) if isinstance(strategy, DictConfig) else strategy,
        precision=precision,  # type: ignore[arg-type]
        logger=loggers,
        callbacks=callbacks,
        plugins=[] if isinstance(strategy, DictConfig) else [AtomicCheckpointIO()],
        default_root_dir=directory,
        # One fit "epoch" is the whole stage: epochs are the stream's, which ends by itself.
        max_epochs=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        # Lightning would wrap the loader and shuffle away the curriculum.
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,  # callbacks.progress shows the run
    )


def open_run(directory: Path, config: DictConfig) -> tuple[bool, tuple[int, Path] | None]:
    """Make or reopen a stage's directory; returns (is finished, checkpoint to go on from, with
    the steps that it has done).

    Raises:
        UserError: the directory holds a run and nothing says what should become of it, or
            the run was made with another configuration.
    """
    if config.resume not in (None, "auto"):
        raise UserError(f"resume={config.resume!r} must be auto or left out")
    if config.overwrite and config.resume:
        raise UserError("resume=auto and overwrite=true exclude each other")
    saved = directory / "config.yaml"
    finished = (directory / RESULTS_FILE).exists()
    if saved.exists() and config.overwrite:
        shutil.rmtree(directory)
    elif saved.exists() and config.resume is None:
        raise UserError(
            f"{directory} holds {'a finished' if finished else 'an unfinished'} run. Go on with "
            "resume=auto, replace it with overwrite=true, or start another with run=NAME"
        )
    elif saved.exists():
        differing = _differences(OmegaConf.load(saved), config)
        if differing:
            raise UserError(
                f"{directory} was made with another configuration ({'; '.join(differing)}). "
                "Start another with run=NAME, or replace it with overwrite=true"
            )
        return finished, newest_checkpoint(directory / "checkpoints")
    directory.mkdir(parents=True, exist_ok=True)
    saved.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    return False, None


def find_start(start_from: str, config: DictConfig, fingerprint: dict[str, str]) -> Path | None:
    """The ``hf/`` directory to start from, checked; None for the pretrained model."""
    if start_from == "base":
        return None
    given = Path(os.path.expanduser(start_from))
    candidates = [given / "hf", given]
    if "/" not in start_from:
        here = [
            Path(root) / start_from / "hf" for root in (config.paths.run_dir, config.paths.base_dir)
        ]
        candidates = [*here, *candidates]
    directory = next((c for c in candidates if (c / "orca.json").exists()), candidates[0])
    handoff = check_handoff(directory, fingerprint)
    print(
        f"start: {directory} (stage {handoff['stage']}, weights {handoff['weights'][:12]})",
        flush=True,
    )
    return directory


def _announce(
    config: DictConfig,
    name: str,
    stage: Stage,
    start_from: Path | None,
    trainer: L.Trainer,
    datamodule: TraceDataModule,
) -> None:
    """Print what was decided."""
    rows = len(datamodule.source)
    tokens = datamodule.global_batch * datamodule.max_tokens
    lines = [
        f"stage: {name} from {start_from or config.model.path}, into {trainer.default_root_dir}",
        f"data: {config.data.name}, part {stage.part}: {rows:,} rows × {stage.epochs} epochs, "
        f"{datamodule.curriculum.describe()}, {len(datamodule.held_out_traces())} held out",
        f"step: {datamodule.global_batch} pack(s) of {datamodule.max_tokens}, up to {tokens:,} "
        f"tokens; {trainer.world_size} rank(s) × micro-batches of {datamodule.micro_batch}",
        f"optimizer: lr {config.optimizer.lr * stage.lr_scale:g}, "
        f"{type(instantiate(config.scheduler)).__name__.lower()} schedule",
    ]
    if trainer.is_global_zero:
        print("\n".join(lines), flush=True)


def _differences(old: Any, new: DictConfig) -> list[str]:
    before = _flat(OmegaConf.to_container(old, resolve=True))
    after = _flat(OmegaConf.to_container(new, resolve=True))
    return [
        f"{key}: {before.get(key)} → {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
        and not any(key == option or key.startswith(option + ".") for option in MAY_DIFFER)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _device(accelerator: str) -> torch.device:
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        if torch.backends.mps.is_available():
            accelerator = "mps"
    return torch.device({"gpu": "cuda"}.get(accelerator, accelerator))


def _directory(callback: DictConfig, directory: Path) -> dict[str, str]:
    """A callback that says ``directory: ???`` is given the stage's."""
    return {"directory": str(directory)} if OmegaConf.is_missing(callback, "directory") else {}


def _log_config(logger: Any, config: DictConfig) -> None:
    resolved = OmegaConf.to_container(config, resolve=True)
    logger.log_hyperparams({"config": resolved, "git_commit": git_commit()})


def _finish_wandb(trainer: L.Trainer, results: dict[str, Any], directory: Path) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            run.summary.update({"results": results})
            card = json.loads((directory / "data_card.json").read_text(encoding="utf-8"))
            card.pop("dropped_rows")
            run.config.update(
                {"data_card": card, "fingerprints": card["facts"]}, allow_val_change=True
            )
            run.save(str(directory / "data_card.*"), base_path=str(directory), policy="now")
            run.finish()
