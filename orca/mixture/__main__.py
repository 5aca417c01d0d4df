"""Build the paper's query sets, FLAN-5M and FLAN-1M, from FLAN's collections.

    python -m orca.mixture mixture=flan mixture.path=/data/flan out=queries/flan
    python -m orca.mixture mixture=flan_mini               # a thousandth, from small public files

Options are in conf/queries.yaml and the groups mixture and hygiene beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from orca.config import check_config, run_program
from orca.mixture.build import build_query_sets
from orca.mixture.mixture import Mixture

OPTIONS = ("mixture", "hygiene", "out", "seed", "overwrite", "memory_gib", "paths")


def main(config: DictConfig) -> None:
    """Build the query sets and say where they and their card are."""
    check_config(config, OPTIONS)
    mixture: Mixture = instantiate(config.mixture, _convert_="all")
    resolved = cast(dict[str, Any], OmegaConf.to_container(config.mixture, resolve=True))
    out = Path(config.out)
    build_query_sets(mixture, out, resolved, config.overwrite, config.memory_gib)
    print(f"card: {out / 'query_card.html'} (also .md, .json)")
    print(f"train on the gold targets: python train.py data=flan_targets data.path={out}")


if __name__ == "__main__":
    run_program(main, "queries")
