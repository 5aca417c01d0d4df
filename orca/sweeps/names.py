"""Directories of a sweep's jobs: named by the options that are varied, also when one runs alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

SWEPT_FILE = "swept.json"


def sweep_job_name(number: Any) -> str:
    """Directory of a job of a sweep: the options that this sweep or an earlier one in the same
    directory varies, or its number. So one job that is run alone has the name that it had."""
    hydra = HydraConfig.get()
    job = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    values = {o.key_or_group: o.get_value_string() for o in job}
    swept = _read(Path(hydra.sweep.dir) / SWEPT_FILE)
    parts = [f"{key}={values[key]}" for key in swept if key in values]
    return ",".join(parts).replace("/", "_") or str(number)


class SweptOptions(Callback):
    """Notes in ``swept.json`` of the sweep's directory which options it varies.

    A file, because launchers run jobs in processes and on machines that do not know the command.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        params = [str(key) for key in OmegaConf.select(config, "hydra.sweeper.params") or ()]
        varied = [o.key_or_group for o in given if o.is_sweep_override()]
        file = Path(config.hydra.sweep.dir) / SWEPT_FILE
        known = _read(file)
        # The order of earlier names stays, for a job that is run again must find its directory.
        swept = list(dict.fromkeys([*known, *params, *varied]))
        if swept != known:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(swept), encoding="utf-8")
            os.replace(partial, file)


def _read(file: Path) -> list[str]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
