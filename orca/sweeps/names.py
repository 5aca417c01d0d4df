"""Directories of a sweep's jobs: named by the options that are varied, also when one runs alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from orca.paths import replacing

SWEPT_FILE = "swept.json"


def sweep_job_name(number: Any) -> str:
    """Directory of a job of a sweep: the options that this sweep or an earlier one in the same
    directory varies, or its number. So one job that is run alone has the name that it had."""
    hydra = HydraConfig.get()
    return name_of(list(hydra.overrides.task), Path(hydra.sweep.dir)) or str(number)


def name_of(options: Sequence[str], directory: Path) -> str:
    """Name of the job with these options in a sweep's directory; "" where none of them is swept."""
    job = OverridesParser.create().parse_overrides(list(options))
    values = {o.key_or_group: o.get_value_string() for o in job}
    parts = [f"{key}={values[key]}" for key in swept_options(directory) if key in values]
    return ",".join(parts).replace("/", "_")


def job_options(hydra: Any) -> list[str]:
    """Command line of one job (of a sweep, perhaps) as a process of its own, with its directory."""
    variables = [o for o in hydra.overrides.hydra if o.lstrip("+").startswith("hydra.job.env_")]
    place = f"hydra.run.dir={quoted(str(hydra.runtime.output_dir))}"
    return [*hydra.overrides.task, *variables, *own_directories(hydra), place]


def own_directories(hydra: Any) -> list[str]:
    """The option for the directories of configuration that the command line named besides ours."""
    named = [s for s in hydra.runtime.config_sources if "command-line" in s.provider]
    urls = [quoted(f"{source.schema}://{source.path}") for source in named]
    return [f"hydra.searchpath=[{','.join(urls)}]"] if urls else []


def quoted(text: str) -> str:
    """As a value on a command line of Hydra, to the letter."""
    # Backslashes are literal in Hydra's quotes, but for those before a quote.
    return "'" + re.sub(r"(\\*)('|$)", _escaped, text) + "'"


def _escaped(found: re.Match[str]) -> str:
    return found[1] * 2 + (r"\'" if found[2] else "")


class SweptOptions(Callback):
    """Notes in ``swept.json`` of the sweep's directory which options it varies.

    A file, because launchers run jobs in processes and on machines that do not know the command.
    A sweep whose jobs cannot lie in one directory, or that would launch plans, ends here with
    status 2.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        params = [str(key) for key in OmegaConf.select(config, "hydra.sweeper.params") or ()]
        varied = [o.key_or_group for o in given if o.is_sweep_override()]
        wrong = _scattered(config, given, [*params, *varied]) or _launched_plan(config)
        if wrong:  # Hydra would make a warning of an error
            print(f"error: {wrong}", file=sys.stderr, flush=True)
            sys.exit(2)
        if OmegaConf.select(config, "plan"):
            return
        file = Path(config.hydra.sweep.dir) / SWEPT_FILE
        known = _read(file)
        # The order of earlier names stays, for a job that is run again must find its directory.
        swept = list(dict.fromkeys([*known, *params, *varied]))
        if swept != known:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as partial:
                partial.write_text(json.dumps(swept), encoding="utf-8")


def _scattered(config: DictConfig, given: Sequence[Override], varied: Iterable[str]) -> str:
    """What is wrong where the jobs' directories would not lie in that of the sweep."""
    plain: Any = OmegaConf.to_container(config)
    run = str(plain.get("run", ""))
    moving = {"run", "paths", *re.findall(r"\$\{(\w+)", run)}
    if not any(one.key_or_group == "run" for one in given):
        moving.add("experiment")  # its file names the run
    found = [key for key in varied if key.split(".")[0] in moving]
    if not found:
        return ""
    way_out = "it names the sweep, and cannot vary" if found[0] == "run" else "give run=NAME"
    if found[0].split(".")[0] == "paths":
        way_out = "it names the sweep's directory, and cannot vary"
    return f"jobs with other {found[0]} would lie in other directories than the sweep: {way_out}"


def _launched_plan(config: DictConfig) -> str:
    choices = OmegaConf.select(config, "hydra.runtime.choices") or {}
    for group in ("hydra/launcher", "hydra/sweeper"):
        if OmegaConf.select(config, "plan") and choices.get(group, "basic") != "basic":
            return f"plan=true trains nothing: leave {group}={choices[group]} out"
    return ""


def swept_options(directory: Path) -> list[str]:
    """What the sweeps in a directory vary."""
    return _read(directory / SWEPT_FILE)


def _read(file: Path) -> list[str]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
