"""One stage, from configuration to ``hf/``: the body of `train.py`, to be read top to bottom."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from orca.errors import Stopped, Unfinished, UserError
from orca.paths import replacing
from orca.stream import TraceDataModule, lost_worker
from orca.training.answers import SAMPLES_FILE
from orca.training.checkpoint import newest_checkpoint
from orca.training.directory import RESULTS_FILE, RunDirectory, find_start, open_run, rewind
from orca.training.export import HANDOFF_FILE, export
from orca.training.flops import mfu_reference
from orca.training.levers import Levers
from orca.training.loggers import MetricsCsv
from orca.training.lora import merged, save_adapter
from orca.training.module import ExplanationTuning
from orca.training.ranks import is_rank_zero, is_restarted, join_ranks, on_rank_zero
from orca.training.report import model_card, plot_loss, save_machine, summarise
from orca.training.saving import CHECKPOINTS
from orca.training.stopping import StopSignals, Watchdog
from orca.training.strategies import TIMEOUT_MINUTES
from orca.training.trainer import build_trainer
from orca.training.wandb_run import (
    WandbRun,
    finish_failed,
    log_artifact,
    model_artifact,
    run_facts,
    use_model,
)


@dataclass(frozen=True)
class Stage:
    """A stage of progressive learning.

    Args:
        part: part of the data that it trains on.
        epochs: passes over that part; 2.5 are two and half of a third.
        lr_scale: factor on ``optimizer.lr``.
        start_from: ``base``, the name of an earlier stage, or a ``hf/`` directory.
    """

    part: str
    epochs: float
    lr_scale: float
    start_from: str

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise UserError(f"epochs={self.epochs} of the stage must be more than 0")
        if not self.lr_scale >= 0:
            raise UserError(f"lr_scale={self.lr_scale} of the stage must not be negative")


def train_stage(config: DictConfig, name: str) -> dict[str, Any]:
    """Train stage ``name`` and return its results (also in ``results.json``; empty on other
    ranks than 0).

    Raises:
        UserError: the configuration or the data is wrong.
        Unfinished: the run stopped before its end and can go on with ``resume=auto``.
    """
    directory = Path(config.paths.run_dir) / name
    minutes = OmegaConf.select(config, "strategy.strategy.timeout_minutes") or TIMEOUT_MINUTES
    # A little longer than the watchdog's patience, which can say who is stuck.
    join_ranks(timedelta(minutes=1.25 * minutes))
    names = list(config.stages)
    later = names[names.index(name) + 1 :] if config.overwrite else []
    # Rank 0's; on the others nothing is done with it.
    run = RunDirectory(directory, [directory.with_name(other) for other in later])
    on_rank_zero(run.lock)
    try:
        return _train(config, name, run, minutes)
    except (UserError, InstantiationException):  # Hydra wraps those of constructors
        run.undo()
        raise
    finally:
        finish_failed()
        run.release()


def _train(config: DictConfig, name: str, run: RunDirectory, minutes: float) -> dict[str, Any]:
    directory = run.path
    stage: Stage = instantiate(config.stages[name])
    own = copy.deepcopy(config)
    own.stages = {name: config.stages[name]}  # what the other stages are does not matter here
    if is_restarted():
        own.resume, own.overwrite = "auto", False
    stop = StopSignals()
    stop.install()
    finished, resuming = on_rank_zero(lambda: open_run(directory, own))
    if finished:
        if is_rank_zero():
            print(f"{directory} is finished; its results stand.", flush=True)
        if not is_rank_zero():
            return {}
        return json.loads((directory / RESULTS_FILE).read_text(encoding="utf-8"))
    checkpoint = newest_checkpoint(directory / CHECKPOINTS) if resuming else None
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed} must lie between 0 and 2³² - 1")
    L.seed_everything(config.seed, workers=True, verbose=False)

    pretrained = instantiate(config.model)
    template = instantiate(config.template)
    on_rank_zero(pretrained.prepare)
    tokenizer = pretrained.tokenizer()
    template.prepare(tokenizer)
    if pretrained.adapter is not None:
        plain = pretrained.tokenizer() if stage.start_from == "base" else None
        pretrained.adapter.check(config.strategy.name, plain, tokenizer)
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
        max_skipped_steps=config.max_skipped_steps,
        levers=Levers(config.activation_checkpointing, config.compile, config.liger),
        start_from=start_from,
        seed=config.seed,
    )
    validate = bool(datamodule.held_out_packs())
    if checkpoint is None:
        on_rank_zero(lambda: run.start(own))
    lineage = on_rank_zero(lambda: _lineage(config, name, directory, start_from))

    def export_to(
        target: Path, card: str, facts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        dtype = pretrained.export_dtype
        with merged(module.student.causal_lm, getattr(torch, dtype)) as causal_lm:
            return export(
                causal_lm,
                tokenizer,
                target,
                dtype=dtype,
                stage=name,
                fingerprint=fingerprint,
                card=card,
                facts={**lineage, **(facts or {})},
            )

    module.export = export_to
    begin = LambdaCallback(on_train_batch_end=lambda *_: run.begin())
    trainer = build_trainer(config, name, directory, [stop, Watchdog(minutes), begin])
    _announce(config, name, stage, start_from, trainer, datamodule)
    on_rank_zero(lambda: save_machine(directory, trainer))

    csv = next(logger for logger in trainer.loggers if isinstance(logger, MetricsCsv))
    csv.cut(checkpoint[0] if checkpoint else 0)
    if checkpoint is not None and is_rank_zero():
        run.go_on(own)
        rewind(directory, checkpoint[0])
        print(f"resuming after step {checkpoint[0]} from {checkpoint[1]}", flush=True)
    if checkpoint is None and validate:
        trainer.validate(module, datamodule, verbose=False)
    _fit(trainer, module, datamodule, checkpoint, directory)
    if validate and module.validated_after != trainer.global_step:
        trainer.validate(module, datamodule, verbose=False)

    def report() -> tuple[dict[str, Any], str]:
        datamodule.save_card(directory)
        plot_loss(directory)
        results = summarise(directory, datamodule, name)
        return results, model_card(config, name, results, datamodule)

    results, card = on_rank_zero(report)
    if pretrained.adapter is not None:
        on_rank_zero(lambda: save_adapter(module.student.causal_lm, directory / "adapter"))
    results["handoff"] = module.export(directory / "hf", card)
    if not trainer.is_global_zero:
        return {}
    with replacing(directory / RESULTS_FILE) as partial:
        partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    _finish_wandb(trainer, results, directory)
    return results


def _fit(
    trainer: L.Trainer,
    module: ExplanationTuning,
    datamodule: TraceDataModule,
    checkpoint: tuple[int, Path] | None,
    directory: Path,
) -> None:
    """Fit, and see to it that what ended early is not taken for finished."""
    start = str(checkpoint[1]) if checkpoint else None
    kind, stopped = Unfinished, "stopped"
    try:
        trainer.fit(module, datamodule, ckpt_path=start, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"the Trainer refuses its configuration: {error}") from None
    except RuntimeError as error:
        raise lost_worker(error) from None
    except SIGTERMException:
        kind, stopped = Stopped, "told to stop"
    except KeyboardInterrupt:
        stopped = "interrupted"
    enough = 0 < trainer.max_steps <= trainer.global_step
    if stopped == "stopped" and (enough or datamodule.is_exhausted):
        return
    done = datamodule.examples_read / datamodule.stream().num_examples
    raise kind(
        f"{stopped} after step {trainer.global_step}, {done:.0%} of the data. Nothing in "
        f"{directory} is lost: the same command with resume=auto goes on from the last checkpoint"
    )


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
        f"data: {config.data.name}, part {stage.part}: {rows:,} rows × {stage.epochs:g} epoch(s), "
        f"{datamodule.curriculum.describe()}, {len(datamodule.held_out_traces())} held out",
        f"step: {datamodule.global_batch} pack(s) of {datamodule.max_tokens}, up to {tokens:,} "
        f"tokens; {trainer.world_size} rank(s) × micro-batches of {datamodule.micro_batch}",
        f"optimizer: lr {config.optimizer.lr * stage.lr_scale:g}, "
        f"{type(instantiate(config.scheduler)).__name__.lower()} schedule",
        mfu_reference(trainer.strategy.root_device, str(trainer.precision))[1],
    ]
    if 0 < len(datamodule.held_out_traces()) < 20:
        lines.append("warning: fewer than 20 validation traces; their loss will be noisy")
    if trainer.is_global_zero:
        print("\n".join(lines), flush=True)


def _lineage(
    config: DictConfig, name: str, directory: Path, start_from: Path | None
) -> dict[str, Any]:
    """Which run a model is of, and which run's model that one began with, for the hand-off."""
    facts: dict[str, Any] = {"run": run_facts(config, name, directory)}
    if start_from is not None:
        earlier = json.loads((start_from / HANDOFF_FILE).read_text(encoding="utf-8"))
        facts["started_from"] = {key: earlier.get(key) for key in ("run", "weights")}
    return facts


def _finish_wandb(trainer: L.Trainer, results: dict[str, Any], directory: Path) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbRun):
            run, handoff = logger.experiment, results["handoff"]
            run.summary.update({"results": results})
            card = json.loads((directory / "data_card.json").read_text(encoding="utf-8"))
            card.pop("dropped_rows")
            facts = {"data_card": card, "fingerprints": card["facts"]}
            run.config.update({**facts, "weights": handoff["weights"]}, allow_val_change=True)
            cards = [directory / "data_card.json", directory / "data_card.md"]
            for file in cards:  # what lies in its directory is sent with the run
                shutil.copy(file, run.dir)
            log_artifact(run, f"data-card-{run.id}", "data_card", cards, metadata=card["facts"])
            samples = [directory / SAMPLES_FILE]
            if samples[0].exists():
                log_artifact(run, f"samples-{run.id}", "samples", samples)
            told = [directory / "hf" / HANDOFF_FILE]  # has the weights' sha256
            log_artifact(run, model_artifact(run.id), "model", told, directory / "hf", handoff)
            if (handoff.get("started_from") or {}).get("run"):
                use_model(run, handoff["started_from"]["run"])
            run.finish()
