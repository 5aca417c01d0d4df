"""Build the paper's query sets, FLAN-5M and FLAN-1M, from FLAN's collections.

    python -m orca.mixture mixture=flan mixture.path=/data/flan out=queries/flan
    python -m orca.mixture mixture=flan_mini               # a thousandth, from small public files

Options are in conf/queries.yaml and the groups mixture and hygiene beside it.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from orca.config import check_config, run_program
from orca.errors import Unfinished, UserError
from orca.mixture.build import build_query_sets
from orca.mixture.mixture import Mixture

OPTIONS = ("mixture", "hygiene", "out", "seed", "overwrite", "memory_gib", "paths")


def main(config: DictConfig) -> None:
    """Build the query sets and say where they and their card are."""
    check_config(config, OPTIONS)
    mixture: Mixture = instantiate(config.mixture, _convert_="all")
    resolved = cast(dict[str, Any], OmegaConf.to_container(config.mixture, resolve=True))
    resolved.pop("path")  # where files lie is nobody's business, and changes nothing
    for check in resolved["hygiene"].values():
        check.pop("root", None)
    if not isinstance(config.memory_gib, (int, float)):
        raise UserError(f"memory_gib={config.memory_gib!r} is no number")
    out = Path(config.out)
    signal.signal(signal.SIGTERM, _stop)
    try:
        build_query_sets(mixture, out, resolved, config.overwrite, config.memory_gib)
    except KeyboardInterrupt:
        raise Unfinished(f"stopped: {out} was not written") from None
    print(f"card: {out / 'query_card.html'} (also .md, .json)")
    first = next(iter(mixture.sets))
    parts = "" if first == "flan5m" else f" data.parts.chatgpt='{first}/*.parquet'"
    print(f"gold targets as responses: python train.py data=flan_targets data.path={out}{parts}")


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # as Ctrl-C does, so that nothing is left behind


if __name__ == "__main__":
    run_program(main, "queries")
