"""Train a student on explanation traces, stage by stage.

    python train.py stage=flan5m_chatgpt                    # the embedded default, any machine
    python train.py stage=progressive model=llama2_13b data=openorca
    python train.py -m stage=flan5m_chatgpt optimizer.lr=1e-5,3e-5

Options are in conf/train.yaml and the groups beside it; `python train.py --help` lists them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from orca.config import check_config, run_program
from orca.report import try_report, write_run_report
from orca.sweeps.names import job_options
from orca.training import (
    TRAIN_OPTIONS,
    describe,
    held_out_loss,
    is_rank_zero,
    needs_ranks,
    next_command,
    plan_report,
    plan_stage,
    start_ranks,
    train_stage,
)


def main(config: DictConfig) -> float | None:
    """Train every stage, or print its plan; returns the last held-out loss, for sweepers."""
    check_config(config, TRAIN_OPTIONS)
    if config.plan:
        print("\n\n".join(plan_report(plan_stage(config, str(name))) for name in config.stages))
        with suppress(OSError):  # Hydra has made it; a run that is there is not empty
            Path(config.paths.run_dir).rmdir()
        return None
    if needs_ranks(config):
        start_ranks(__file__, job_options(HydraConfig.get()), config.trainer.devices)
        return held_out_loss(config)
    for name in config.stages:
        results = train_stage(config, str(name))
        if results:  # on rank 0
            directory = Path(config.paths.run_dir)
            print(describe(results, directory / str(name)), flush=True)
            try_report(partial(write_run_report, directory), directory)
    if is_rank_zero():
        print(next_command(config), flush=True)
    return held_out_loss(config)


if __name__ == "__main__":
    run_program(main, "train")
