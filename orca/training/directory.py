"""A stage's directory: opened, resumed or replaced, and never by accident."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from orca.errors import UserError
from orca.paths import replacing
from orca.training.answers import SAMPLES_FILE
from orca.training.export import HANDOFF_FILE, check_handoff
from orca.training.guards import INCIDENTS_FILE

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.yaml"
MAY_DIFFER = (
    *("run", "resume", "overwrite", "callbacks", "benchmark", "logger", "paths", "strategy"),
    *("plan", "planning", "data.num_workers", "data.micro_batch", "max_skipped_steps"),
    *("activation_checkpointing", "compile", "liger"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "max_time")),
    *(f"trainer.{key}" for key in ("val_check_interval", "log_every_n_steps")),
)
"""Options that may change when a run is resumed: they change numbers by rounding at most."""


TOLD = {
    # A way out of losses that are no number; said, since it is another run from here on.
    "optimizer.lr": (
        "goes on with another learning rate",
        "is finished, but not at this learning rate",
    ),
    # Where a copy of the project or another mount has it. The stream knows its data by content.
    "data.path": (
        "goes on with data from another place; a checkpoint refuses other data",
        "is finished; its data lay elsewhere, and is not compared",
    ),
}
"""Options that may change with a warning: of an unfinished stage, of a finished one."""


def open_run(directory: Path, config: DictConfig) -> tuple[bool, bool]:
    """What is in a stage's directory: (is finished, is to be gone on with).

    Changes nothing; :meth:`RunDirectory.start` does, once all else has been built.

    Raises:
        UserError: the directory holds a run and nothing says what should become of it, or
            the run was made with another configuration.
    """
    if config.resume not in (None, False, True, "auto"):
        raise UserError(f"resume={config.resume!r} must be auto or left out")
    if config.overwrite and config.resume:
        raise UserError("resume=auto and overwrite=true exclude each other")
    saved = directory / CONFIG_FILE
    finished = (directory / RESULTS_FILE).exists()
    if not saved.exists() or config.overwrite:
        return False, False
    if not config.resume:
        raise UserError(
            f"{directory} holds {'a finished' if finished else 'an unfinished'} run. Go on with "
            "resume=auto, replace it with overwrite=true, or start another with run=NAME"
        )
    differing = _differences(OmegaConf.load(saved), config)
    for key, told in TOLD.items():
        for change in [change for change in differing if change.startswith(f"{key}: ")]:
            print(f"warning: {directory} {told[finished]} ({change})", flush=True)
            differing.remove(change)
    if differing:
        raise UserError(
            f"{directory} was made with another configuration ({'; '.join(differing)}). "
            "Start another with run=NAME, or replace it with overwrite=true"
        )
    if finished:
        _check_start(directory, config)
    return finished, True


def _check_start(directory: Path, config: DictConfig) -> None:
    """A finished stage stands only as long as the one that it started from is the same."""
    results = json.loads((directory / RESULTS_FILE).read_text(encoding="utf-8"))
    told = results.get("handoff", {}).get("started_from", {}).get("weights")
    start = _start_directory(config.stages[directory.name].start_from, config) if told else None
    if start is None or not (start / HANDOFF_FILE).exists():
        return
    handoff = json.loads((start / HANDOFF_FILE).read_text(encoding="utf-8"))
    if handoff["weights"] != told:
        raise UserError(
            f"{directory} was trained from other weights than {start} holds now. Train it again: "
            f"stage={directory.name} overwrite=true; or start another run with run=NAME"
        )


class RunDirectory:
    """A stage's directory in the hands of one process (rank 0).

    What an earlier run left there is moved aside at :meth:`start` and deleted at :meth:`begin`,
    when the first step has been taken; until then :meth:`undo` brings it back.

    Args:
        later: directories of stages that go with the earlier run, for they began where it ended.
    """

    def __init__(self, path: Path, later: Sequence[Path] = ()) -> None:
        self.path = path
        self._later = later
        self._earlier = path.with_name(f".{path.name}.replaced")
        self._outdated = path.with_name(f".{path.name}.outdated")
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._is_new = False

    def lock(self) -> None:
        """Take the right to train here; it ends with :meth:`release` or the process.

        Raises:
            UserError: another process has it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=5)  # the ranks of a killed launcher take a moment to end
        except Timeout:
            raise UserError(
                f"another process trains in {self.path}. Wait for it, end it, or start another "
                "run with run=NAME"
            ) from None

    def start(self, config: DictConfig) -> None:
        """Make room for a new run and save its resolved configuration."""
        if self._earlier.exists():  # an attempt before this one was killed before its first step
            shutil.rmtree(self.path, ignore_errors=True)
        elif self.path.exists():
            os.replace(self.path, self._earlier)
        self._is_new = True
        self.path.mkdir(parents=True)
        with replacing(self.path / CONFIG_FILE) as partial:
            partial.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")

    def go_on(self, config: DictConfig) -> None:
        """Save the learning rate and the place of the data that a resumed run has from here on."""
        file = self.path / CONFIG_FILE
        saved = OmegaConf.load(file)
        values = {key: OmegaConf.select(config, key) for key in TOLD}
        changed = {k: v for k, v in values.items() if OmegaConf.select(saved, k) != v}
        if changed:
            for key, value in changed.items():
                OmegaConf.update(saved, key, value)
            with replacing(file) as partial:
                partial.write_text(OmegaConf.to_yaml(saved), encoding="utf-8")

    def begin(self) -> None:
        """The new run has trained: the earlier one goes, by a rename first, so that a kill leaves
        no part of it to be brought back."""
        if self._is_new:
            self._is_new = False
            shutil.rmtree(self._outdated, ignore_errors=True)
            if self._earlier.exists():
                os.replace(self._earlier, self._outdated)
            for outdated in (self._outdated, *self._later):
                shutil.rmtree(outdated, ignore_errors=True)

    def undo(self) -> None:
        """Where the new run was refused before it trained, the earlier one comes back."""
        if self._is_new:
            shutil.rmtree(self.path, ignore_errors=True)
            if self._earlier.exists():
                os.replace(self._earlier, self.path)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()


def rewind(directory: Path, step: int) -> None:
    """Cut from the stage's records what was written about steps that will be done again.

    Args:
        step: optimizer steps done by the checkpoint that the run goes on from.
    """
    # An incident is filed under the step that it befell, samples under the steps done before.
    for name, last in ((INCIDENTS_FILE, step - 1), (SAMPLES_FILE, step)):
        file = directory / name
        if file.exists():
            with file.open(encoding="utf-8") as rows:
                lines = list(rows)  # splitlines() would end a line at U+2028, which texts hold
            # A kill may have cut the last line off; it belongs to a step that is done again.
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= last]
            with replacing(file) as partial:
                partial.write_text("".join(kept), encoding="utf-8")


def find_start(start_from: str, config: DictConfig, fingerprint: dict[str, str]) -> Path | None:
    """The ``hf/`` directory to start from, checked; None for the pretrained model."""
    directory = _start_directory(start_from, config)
    if directory is not None:
        handoff = check_handoff(directory, fingerprint)
        print(f"start: {directory} (stage {handoff['stage']}, weights {handoff['weights'][:12]})")
    return directory


def _start_directory(start_from: str, config: DictConfig) -> Path | None:
    if start_from == "base":
        return None
    given = Path(os.path.expanduser(start_from))
    candidates = [given / "hf", given]
    if "/" not in start_from:
        roots = (config.paths.run_dir, config.paths.base_dir)
        candidates = [*(Path(root) / start_from / "hf" for root in roots), *candidates]
    return next((c for c in candidates if (c / HANDOFF_FILE).exists()), candidates[0])


def _differences(old: Any, new: DictConfig) -> list[str]:
    before = flat_options(OmegaConf.to_container(old, resolve=True))
    after = flat_options(OmegaConf.to_container(new, resolve=True))
    parts = {
        value
        for options in (before, after)
        for key, value in options.items()
        if key.startswith("stages.") and key.endswith(".part")
    }
    return [
        f"{key}: {before.get(key)} → {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
        and not is_below(key, MAY_DIFFER)
        # Parts of other stages do not matter here: a run of before there were such goes on.
        and not (key.startswith("data.parts.") and key.split(".")[2] not in parts)
    ]


def is_below(key: str, options: Collection[str]) -> bool:
    """Whether ``key`` is one of ``options``, dotted names, or lies below one."""
    return any(key == one or key.startswith(f"{one}.") for one in options)


def flat_options(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested configuration by their dotted name; an empty mapping is a leaf."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flat_options(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
