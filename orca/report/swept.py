"""Which options tell the jobs of a sweep apart, and what each job has for them.

A job's command line is not enough: a later launch may have told it otherwise, and a file of
``conf/`` may have been changed between launches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from orca.report.again import split_name
from orca.report.directory import Run
from orca.report.options import BOOKKEEPING, UNKNOWN, differences, shown
from orca.sweeps.names import swept_options
from orca.training.directory import MAY_DIFFER, flat_options, is_below

SEEDS = ("seed", "data.seed")
"""Options that make another draw of the same experiment."""

NO_EXPERIMENT = ("resume", "overwrite", "run", "paths")
"""Options that a job may be started with again, without being another one."""

NO_OTHER_RESULT = tuple(dict.fromkeys((*BOOKKEEPING, *MAY_DIFFER)))
"""Options that tell jobs apart only where they are swept."""


def tell_apart(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Options whose values differ, seeds among them, and their values as texts by run.

    Where the command line of a run is not known, configurations are compared instead: all
    options that differ are in the values, and ``seed`` at most is named.
    """
    told = [_told(run) for run in runs]
    configs = [flat_options(run.config) if run.stages else {} for run in runs]
    keys: tuple[str, ...] = ()
    if all(options for options in told):
        named = {key for place in {run.path.parent for run in runs} for key in swept_options(place)}
        asked = [key for key in dict.fromkeys(k for t in told for k in t) if _tells(key, named)]
        options = [
            {key: _value(run, config, own, key) for key in asked}
            for run, config, own in zip(runs, configs, told, strict=True)
        ]
        begun = [bool(run.stages) for run in runs]
        keys = tuple(
            key
            for key in asked
            if len(_known([one[key] for one in options], begun, key in named)) > 1
        )
        swept = [{key: one[key] for key in keys} for one in options]
        more = _untold(runs, configs, swept)
        keys = (*keys, *more)
        for own, config in zip(swept, configs, strict=True):
            own |= {key: shown(config, key) for key in more}
    else:
        rows = differences(configs)
        swept = [{key: values[i] for key, values in rows} for i in range(len(runs))]
        if any("seed" in one for one in swept):
            keys = ("seed",)
    return keys, swept


def _known(values: Sequence[str], begun: Sequence[bool], is_swept: bool) -> set[str]:
    """Different values of an option. A run of which it is not known what it was told has its
    configuration, where the difference shows if there is one."""
    return {
        value
        for value, has_config in zip(values, begun, strict=True)
        if is_swept or not has_config or value != UNKNOWN
    }


def _told(run: Run) -> dict[str, str]:
    """Options of the job's command line; of older sweeps, those in the name of its directory."""
    given = run.job.get("options") or split_name(run.path.name)
    parser = OverridesParser.create()
    try:
        parsed = parser.parse_overrides(list(given))
    except OverrideParseException:
        return {}
    return {one.key_or_group: shown(flat_options(one.value(), "v"), "v") for one in parsed}


def _tells(key: str, swept: Collection[str]) -> bool:
    """Whether jobs with other values of an option are other experiments (or seeds)."""
    if key.split(".")[0] in NO_EXPERIMENT:
        return False
    return key in swept or not is_below(key, NO_OTHER_RESULT)


def _value(run: Run, config: Mapping[str, Any], told: Mapping[str, str], key: str) -> str:
    """A job's value of an option: what it was trained with, for a job that was told otherwise
    later was refused, or had finished; of a group, what it was told or had by default."""
    if key in config:
        return shown(config, key)
    if key in told:
        return told[key]
    choices = run.job.get("choices") or {}
    if key in choices:
        return str(choices[key]) if choices[key] is not None else "null"
    return shown(config, key) if run.job else UNKNOWN


def _untold(
    runs: Sequence[Run],
    configs: Sequence[Mapping[str, Any]],
    options: Sequence[Mapping[str, str]],
) -> list[str]:
    """Options that no command line names, in which jobs differ that would be seeds of one group:
    a file of ``conf/`` was changed between launches."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place, one in enumerate(options):
        if configs[place]:  # else it has not begun
            group = tuple((key, value) for key, value in one.items() if key not in SEEDS)
            groups.setdefault(group, []).append(place)
    found: dict[str, None] = {}
    for places in groups.values():
        data = {_data(runs[place]) for place in places}
        is_moved = len(data) == 1 and None not in data  # the same data at another place
        for key, values in differences([configs[place] for place in places]):
            if key == "data.path" and is_moved:
                continue
            seeds = [configs[place].get("seed") for place in places]
            is_seed = key in SEEDS or values == [str(seed) for seed in seeds]
            # A configuration has the stages that have begun.
            is_begun = not (key.startswith("stages.") and UNKNOWN in values)
            if not is_seed and is_begun and not is_below(key, NO_OTHER_RESULT):
                found[key] = None
    return list(found)


def _data(run: Run) -> str | None:
    """Fingerprint of the first stage's data; None until it has a card."""
    card = run.stages[0].card
    return card["facts"].get("data") if card else None
