"""What a configuration says that another does not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from orca.config import CONF_DIR
from orca.training.directory import flat_options

BOOKKEEPING = ("run", "resume", "overwrite", "plan", "planning", "paths", "logger", "benchmark")
"""Options that say where a run is kept and how it is watched: no difference that one looks for."""

UNKNOWN = "–"


@cache
def program_defaults() -> dict[str, Any]:
    """Leaves of the configuration of ``python train.py`` without any option."""
    inside = GlobalHydra().is_initialized()  # in train.py, whose configurations are the same
    with nullcontext() if inside else initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train")
    OmegaConf.set_struct(config, False)
    config.paths = {"runs": "runs", "base_dir": "", "run_dir": "", "benchmarks": ""}
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return flat_options(plain)


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Options whose values are not the same in all of ``configs`` (flat), as texts.

    A part that some do not have at all is one option.
    """
    nodes = [_nodes(config) for config in configs]
    keys = dict.fromkeys(_top(key, nodes) for config in configs for key in config)
    rows = [(key, [shown(config, key) for config in configs]) for key in keys]
    return [
        (key, values)
        for key, values in rows
        if len(set(values)) > 1 and key.split(".")[0] not in BOOKKEEPING
    ]


def shown(config: Mapping[str, Any], key: str) -> str:
    """The value as one reads it; a dash where there is no such option."""
    below = {name: value for name, value in config.items() if name.startswith(f"{key}.")}
    if below:
        parts = (f"{name.removeprefix(key)[1:]}={shown(below, name)}" for name in below)
        return ", ".join(parts)
    if key not in config:
        return UNKNOWN
    value = config[key]
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _nodes(config: Mapping[str, Any]) -> set[str]:
    """Leaves and what they lie in: ``a.b.c``, ``a.b``, ``a``."""
    return {".".join(parts[: i + 1]) for key in config for parts in [key.split(".")]
            for i in range(len(parts))}  # fmt: skip


def _top(key: str, nodes: Sequence[set[str]]) -> str:
    """The part with ``key`` in it that some of the configurations do not have, or ``key``."""
    parts = key.split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next((part for part in above if any(part not in one for one in nodes)), key)
