"""Hydra around a program: unknown keys fail with the nearest valid one, errors are sentences."""

from __future__ import annotations

import atexit
import difflib
import functools
import inspect
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import hydra
import torch.distributed as dist
import transformers
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
)

from orca.errors import UNFINISHED_STATUS, Stopped, Unfinished, UserError
from orca.sweeps.jobs import ERROR_FILE, FAILED, ThisJob
from orca.sweeps.names import quoted, sweep_job_name
from orca.traces import NUMBERED_MESSAGES

GIVEN_BY_PROGRAM = ("directory", "name")
"""Arguments marked ``???`` that callbacks and loggers get from the program."""

USER_ERRORS = (UserError, HydraException, MissingMandatoryValue, InterpolationResolutionError)

PACKAGE_DIR = Path(__file__).parent
CONF_DIR = PACKAGE_DIR.parent / "conf"


QUOTED = re.compile(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", re.DOTALL)


def to_the_letter(
    arguments: Iterable[str], names: Mapping[str, str], interpolated: bool = True
) -> list[str]:
    """Command-line arguments with the values of some options quoted.

    Hydra would read the commas of a text or of a sweep's directory as a sweep, and take what
    ``model=`` names for a file in ``conf/model``. A value that is in quotes already stays so.

    Args:
        names: of the options, as they are typed → as the configuration has them.
        interpolated: whether ``${…}`` in a value still stands for another option.
    """
    letters = []
    for argument in arguments:
        name, given, value = argument.partition("=")
        if given and name in names:
            if not QUOTED.fullmatch(value):
                if not interpolated:
                    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
                value = quoted(value)
            argument = f"{names[name]}={value}"
        letters.append(argument)
    return letters


def model_name(path: str) -> str:
    """A name for a model: of a run's ``hf/`` directory, the run and its stage."""
    parts = [part for part in Path(str(path)).parts if part not in ("/", "hf", "best")]
    return "-".join(parts[-2:]) or str(path)


OmegaConf.register_new_resolver("orca_package", lambda: str(PACKAGE_DIR), replace=True)
OmegaConf.register_new_resolver("orca_product", lambda a, b: a * b, replace=True)
OmegaConf.register_new_resolver("orca_model_name", model_name, replace=True)
OmegaConf.register_new_resolver("orca_system_message", NUMBERED_MESSAGES.__getitem__, replace=True)
OmegaConf.register_new_resolver("orca_job", sweep_job_name, replace=True)


def run_program(main: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose ``conf/<config_name>.yaml`` with the command line and call ``main`` (also for every
    job of a multirun). A :class:`UserError` or a wrong option ends the program with a sentence
    and exit status 2, a run that stopped early with status 75."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing
    this_job = ThisJob()
    _own_launchers()
    decorated = hydra.main(
        version_base="1.3", config_path=str(CONF_DIR.resolve()), config_name=config_name
    )
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")  # inside lightning
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # val/loss is summed already
    failures: list[Exception] = []
    try:
        _check_groups(sys.argv[1:])
        decorated(_job(main, failures, this_job))()
        if failures:
            raise failures[0]
    except Unfinished as stop:
        _tell(str(stop))
        _leave(UNFINISHED_STATUS)
    except USER_ERRORS as error:
        _tell(f"error: {explain(error)}")
        _leave(2)
    except Exception as error:
        if not dist.is_initialized():
            raise
        if "peer" in str(error):  # another rank has gone, and that is where to look
            first = str(error).strip().splitlines()[0]
            print(f"rank {dist.get_rank()} lost its peers ({first[:120]})", file=sys.stderr)
        else:
            traceback.print_exc()
        _leave(1)
    _leave(0)


def _own_launchers() -> None:
    """Let conf/hydra have the names of Hydra's plugins, which users look for: a plugin of that
    name that is installed would hold our options against its own, and refuse them."""
    Plugins.instance()  # loads them
    store = ConfigStore.instance().repo.get("hydra", {})
    for file in (CONF_DIR / "hydra").glob("*/*.yaml"):
        store.get(file.parent.name, {}).pop(file.name, None)


def _check_groups(arguments: Iterable[str]) -> None:
    """Hydra would answer ``logger=null`` with a traceback that does not name the option."""
    for argument in arguments:
        group, _, value = argument.partition("=")
        directory = CONF_DIR / group
        if value == "null" and "." not in group and directory.is_dir():
            known = ", ".join(sorted(file.stem for file in directory.glob("*.yaml")))
            raise UserError(f"{argument}: {group} takes the name of one of its files: {known}")


def _job(
    main: Callable[[DictConfig], Any], failures: list[Exception], this_job: ThisJob
) -> Callable[[DictConfig], Any]:
    """``main`` with failures that Hydra does not see, since it would print every option first.

    In a sweep, one job's failure is told at once and does not lose the others.
    """

    @functools.wraps(main)
    def job(config: DictConfig) -> Any:
        file = Path(HydraConfig.get().runtime.output_dir) / ERROR_FILE
        file.unlink(missing_ok=True)
        try:
            value = main(config)
            this_job.give_back(value)
            file.unlink(missing_ok=True)  # of a second sweep, which found this job at work
            return value
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                failures.append(error)
                return None
            if isinstance(error, Stopped):
                raise  # the sweep was told to stop, not this job alone
            if isinstance(error, (Unfinished, *USER_ERRORS)):
                sentence = explain(error)
                _tell(f"error in this job: {sentence}")
            else:
                sentence = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            file.write_text(sentence + "\n", encoding="utf-8")
        return FAILED

    return job


def _tell(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def _leave(status: int) -> None:
    """End the program with ``status``."""
    if dist.is_initialized():
        # The threads of process groups can abort a process that is being taken down, and a rank's
        # status would be that of a crash.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def explain(error: BaseException) -> str:
    """What is wrong and what was probably meant."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, MissingConfigException):
        return _missing_config(cause)
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.full_key:
        full_key, parent = str(cause.full_key), cause.parent_node
        known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        return unknown_key(full_key, full_key.rpartition(".")[2], known)
    missing = re.search(r"[Mm]issing mandatory value: (\S+)", str(cause))
    if missing:
        return f"{missing[1]} is needed: give it on the command line"
    return str(error) if cause is error else f"{error}\n{cause}"


def _missing_config(error: MissingConfigException) -> str:
    """A value of a group that has no file: the nearest that has one."""
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    known = sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))
    if not group or not known:
        return str(error)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    return f"there is no {group}={name}.{meant} There are {', '.join(known)}"


def unknown_key(full_key: str, key: str, known: Iterable[str]) -> str:
    """The sentence for a key that does not exist."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    prefix = full_key.removesuffix(key)
    meant = f" Did you mean {prefix}{near[0]}?" if near else ""
    return f"unknown option {full_key!r}.{meant} Known here: {', '.join(known) or 'nothing'}"


def check_config(config: DictConfig, known: Iterable[str]) -> None:
    """Check every key against the constructor that will get it, before anything is built.

    Args:
        known: top-level keys.

    Raises:
        UserError: a key that no constructor takes, with the nearest that it does.
    """
    for key in config:
        if str(key) not in known:
            raise UserError(unknown_key(str(key), str(key), known))
    _check_node(config, "")


def _check_node(node: Any, path: str) -> None:
    if isinstance(node, ListConfig):
        for index in range(len(node)):
            _check_node(node._get_node(index), f"{path}.{index}")
    if not isinstance(node, DictConfig) or OmegaConf.is_missing(node, "_target_"):
        return
    if "_target_" in node:
        try:
            target = get_object(node._target_)
        except Exception as error:  # Hydra tells of a wrong module and a wrong name differently
            raise UserError(f"{path}._target_={node._target_} does not exist ({error})") from None
        parameters = inspect.signature(target).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key in node:
            name = str(key)
            if not name.startswith("_") and name not in parameters and not open_ended:
                full = f"{path}.{name}" if path else name
                raise UserError(unknown_key(full, name, parameters))
    for key in node:
        if OmegaConf.is_missing(node, key) and key not in GIVEN_BY_PROGRAM:
            full = f"{path}.{key!s}" if path else str(key)
            raise UserError(f"{full} is needed: give it on the command line")
        if not OmegaConf.is_missing(node, key):
            _check_node(node._get_node(key), f"{path}.{key!s}" if path else str(key))
