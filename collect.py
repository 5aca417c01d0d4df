"""Ask a teacher the queries of a query set and write explanation traces.

    python collect.py teacher=gpt4 queries=queries/flan/flan1m plan=true    # dollars and days first
    python collect.py teacher=local teacher.endpoints.local.model=NAME queries=queries/mini/flan1m
    python collect.py teacher=gpt4 queries=queries/flan/flan1m out=traces/gpt4 budget_usd=50
    python collect.py teacher=gpt4 queries=queries/flan/flan1m out=traces/gpt4 batch=true

The same command goes on where an earlier one ended. Options are in conf/collect.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from orca.config import check_config, run_program
from orca.teacher import Collection

OPTIONS = (
    "limit", "budget_usd", "ask_again", "student_system_message", "batch", "batch_tokens",
    "batch_poll",
)  # fmt: skip
"""Options that are handed on as they are."""
OTHER_OPTIONS = ("teacher", "gates", "logger", "queries", "out", "plan", "run", "paths")


def main(config: DictConfig) -> None:
    """Ask, and write what was answered; or print the plan."""
    check_config(config, (*OPTIONS, *OTHER_OPTIONS))
    options = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    logger = None
    if config.logger:  # logger=csv has none: the ledger has every figure
        where = {
            **{"directory": config.out, "name": config.run},
            **{"job_type": "collection", "appends": True},
        }
        logger = instantiate(config.logger, **where, _partial_=True)
    collection = Collection(
        teacher=instantiate(config.teacher, _convert_="all"),
        queries=Path(config.queries),
        out=Path(config.out),
        gates=instantiate(config.gates, _convert_="all"),
        gates_config=options["gates"],
        new_logger=logger,
        **{name: options[name] for name in OPTIONS},
    )
    if config.plan:
        print(collection.plan())
    else:
        collection.run()


if __name__ == "__main__":
    run_program(main, "collect")
