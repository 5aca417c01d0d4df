"""Weights & Biases: what a run is called there, how its history reads, and what it is linked to.

A row of history is one optimizer step. The run's id lies in its directory, so that a run that goes
on after a kill is the same run there, and so that models, evaluations and later stages can name it,
with W&B or without.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from orca.errors import UserError
from orca.training.export import HANDOFF_FILE
from orca.training.ranks import is_rank_zero

ID_FILE = "wandb_id.txt"
X_AXES = ("data/target_tokens", "data/progress")
"""Metrics to plot against besides the step: every row has them."""
SUMMARIES = {"val/loss": "min,last", "val/loss/*": "min,last"}
"""What the table of runs shows of a metric, where the last value does not say enough."""


class WandbRun(WandbLogger):
    """Lightning's logger, with the optimizer step as W&B's own step and one row for each.

    Args:
        appends: steps begin at 0 in every process and are counted on from where the run ended.
            Otherwise W&B ignores steps that it has: a run that goes on from a checkpoint does them
            again, with the same numbers.
        **init: of Lightning's logger and of ``wandb.init``.
    """

    def __init__(self, appends: bool = False, **init: Any) -> None:
        super().__init__(**init)
        self._appends = appends
        self._first = self._last = 0
        self._carried: dict[str, float] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, begun by the first who asks."""
        if self._experiment is None:
            import wandb

            known = {k: v for k, v in self._wandb_init.items() if v is not None}
            self._experiment = wandb.init(**known)
            for name in X_AXES:
                self._experiment.define_metric(name)
            for name, summary in SUMMARIES.items():
                self._experiment.define_metric(name, summary=summary)
            self._first = self._last = self._experiment.step if self._appends else 0
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        run = self.experiment
        row = {name: value for name, value in metrics.items() if name != "epoch"}
        self._carried |= {name: row[name] for name in X_AXES if name in row}
        if step is not None:  # validation counts steps done, training from 0
            self._last = max(self._last, self._first + step)
        run.log(self._carried | row, step=self._last)


def wandb_logger(
    directory: str,
    project: str,
    name: str,
    group: str | None,
    mode: str,
    tags: Sequence[str],
    job_type: str | None = None,
    appends: bool = False,
) -> WandbRun:
    """A W&B logger whose run goes on after a resume: the run id lies in the run's directory.

    Args:
        mode: ``online``, ``offline``, or ``auto``: online when an API key is known.
        job_type: what the runs of a group are told apart by: stage, collection, evaluation.
        appends: see :class:`WandbRun`.
    """
    if mode not in ("auto", "online", "offline"):
        raise UserError(f"logger.mode={mode}: auto, online or offline")
    if mode == "auto":
        mode = "online" if has_api_key() else "offline"
    if mode == "online" and not has_api_key():
        raise UserError(
            "logger.mode=online needs an API key: run wandb login, or set WANDB_API_KEY"
        )
    later = (
        "" if mode == "online" else f"; send it later with: wandb sync {directory}/wandb/offline-*"
    )
    if is_rank_zero():
        print(f"W&B: {mode}{'' if mode == 'online' else later}", flush=True)
    return WandbRun(
        appends=appends,
        project=project,
        name=name,
        group=group,
        job_type=job_type,
        id=run_id(Path(directory)),
        save_dir=directory,
        offline=mode == "offline",
        mode=mode,
        reinit="finish_previous",
        tags=list(tags),
        settings={"console": "off", "silent": True},
    )


def run_id(directory: Path) -> str:
    """The id of the run in ``directory``, W&B's too; given on the first call."""
    file = directory / ID_FILE
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text().strip()


def run_facts(config: DictConfig, stage: str, directory: Path) -> dict[str, Any]:
    """Who a run is: its id, name and group, and what runs are grouped by.

    ``job`` is the directory of a sweep's job, which says its options; None outside a sweep.
    """
    base, own = (Path(config.paths[name]).resolve() for name in ("base_dir", "run_dir"))
    job = str(own.relative_to(base)) if own != base and own.is_relative_to(base) else None
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {
        "id": run_id(directory),
        "name": "/".join(part for part in (str(config.run), job, stage) if part),
        "group": OmegaConf.select(config, "logger.group") or str(config.run),
        "stage": stage,
        "model": str(config.model.name),
        "data": str(config.data.name),
        "arm": choices.get("arm"),
        "job": job,
        "seed": int(config.seed),
    }


def trained_by(model: Path) -> dict[str, Any] | None:
    """:func:`run_facts` of the run that left a model directory; None: it does not say."""
    file = model / HANDOFF_FILE
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found: dict[str, Any] | None = facts.get("run")
    return found


def model_artifact(run: str) -> str:
    """Name of the artifact that stands for the model which run ``run`` left."""
    return f"hf-{run}"


def log_artifact(
    run: Any,
    name: str,
    kind: str,
    files: Sequence[Path] = (),
    directory: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Record an artifact of a run, online or offline alike.

    Args:
        run: of W&B.
        files: small ones, which are sent; those that do not exist are left out.
        directory: is named, by its ``file://`` address, and not sent. What is in it is not read, so
            a file of ``files`` must tell one version from another.
    """
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata or {}))
    for file in files:
        if file.is_file():
            artifact.add_file(str(file), policy="immutable")  # not copied
    if directory is not None:
        artifact.add_reference(directory.resolve().as_uri(), name=directory.name, checksum=False)
    run.log_artifact(artifact)


def use_model(run: Any, trained: Mapping[str, Any]) -> None:
    """Record that a run reads the model of another: in its configuration, and as an edge of W&B's
    graph of artifacts, which W&B has online alone.

    Args:
        trained: :func:`run_facts` of the other run.
    """
    import wandb

    artifact = model_artifact(trained["id"])
    run.config.update({"uses_model": artifact, "uses_run": trained["id"]}, allow_val_change=True)
    if run.offline:
        return
    try:
        run.use_artifact(f"{artifact}:latest", type="model")
    except (ValueError, wandb.Error) as error:  # its run was not sent, or is in another project
        reason = str(error).strip().splitlines()[0]
        print(f"W&B: {artifact} is named but not linked ({reason})", file=sys.stderr, flush=True)


def finish_failed() -> None:
    """End a run that is still open as one that failed; the next job must not go on in it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.run.finish(exit_code=1)


def has_api_key() -> bool:
    """Whether W&B's key is in the environment or in ``~/.netrc``; it is looked for nowhere else.

    Raises:
        UserError: what is there cannot be a key.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb
    from wandb.sdk.lib import wbauth

    host = server_url()
    try:
        return wbauth.read_netrc_auth(host=host) is not None
    except (wandb.errors.AuthenticationError, ValueError) as error:
        raise UserError(f"the W&B key of {host} in ~/.netrc cannot be used: {error}") from None


def server_url() -> str:
    """Address of W&B's server: ``WANDB_BASE_URL``, else what W&B's own settings say."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
