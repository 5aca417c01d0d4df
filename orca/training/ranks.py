"""Several ranks: how they are started, and how they agree.

A run on several devices is started in one way: `train.py` starts `torchrun` for itself with the
options of this one job. So the ranks of a job share its directory, a job of a sweep does not start
the sweep again, and `torchrun` and SLURM on many nodes (which start the ranks themselves) need no
other path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from orca.errors import UserError


def is_rank() -> bool:
    """Whether a launcher (torchrun or SLURM with several tasks) has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def needs_ranks(config: DictConfig) -> bool:
    """Whether this process must start ranks before it can train.

    Raises:
        UserError: several devices with a strategy for one.
    """
    wanted, here = config.trainer.accelerator, torch.cuda.device_count()
    number = config.trainer.devices
    if wanted in ("gpu", "cuda") and here < (number if isinstance(number, int) else 1):
        raise UserError(
            f"trainer.accelerator={wanted} with trainer.devices={number}: this machine has {here} "
            "GPU(s). Ask for fewer, or try it out on the CPU: trainer.accelerator=cpu model=tiny "
            "data=sample"
        )
    several = config.trainer.devices != 1 or config.trainer.num_nodes != 1
    if config.strategy.name == "single":
        if several:
            raise UserError(
                f"strategy=single trains on one device, trainer.devices={config.trainer.devices} "
                f"on {config.trainer.num_nodes} node(s) is asked for. Take strategy=fsdp"
            )
        return False
    if is_rank():
        return False
    if config.trainer.num_nodes != 1:
        raise UserError(
            f"trainer.num_nodes={config.trainer.num_nodes}: start train.py on every node with "
            "torchrun, or with srun and one task for each device"
        )
    return True


def start_ranks(program: str, overrides: list[str], devices: int | str) -> None:
    """Run ``program`` on ``devices`` local ranks (a number, or ``auto`` for all GPUs) and wait.

    Raises:
        UserError: a rank failed (its own message is above).
    """
    if devices in ("auto", -1):
        devices = torch.cuda.device_count() or 1
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={devices}", program, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    failed = subprocess.run(command, env=environment, check=False).returncode
    if failed:
        raise UserError(f"the ranks ended with status {failed}; the first error is above")


def join_ranks(timeout: timedelta = timedelta(minutes=30)) -> None:
    """Connect this rank with the others, over gloo for CPU tensors and NCCL for CUDA tensors."""
    if dist.is_initialized() or not is_rank():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" not in os.environ:  # SLURM names them differently
        os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
        os.environ.setdefault("WORLD_SIZE", os.environ["SLURM_NTASKS"])
        os.environ.setdefault("LOCAL_RANK", os.environ["SLURM_LOCALID"])
    dist.init_process_group(backend, timeout=timeout)


def is_rank_zero() -> bool:
    """Whether this process speaks for the run."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_rank_zero(function: Callable[[], Any]) -> Any:
    """What ``function`` returns on rank 0, on every rank; its :class:`UserError` too."""
    if not dist.is_initialized():
        return function()
    result: list[Any] = [None, None]
    if is_rank_zero():
        try:
            result = [function(), None]
        except UserError as error:
            result = [None, str(error)]
        except BaseException as error:  # the others must not wait for ever
            dist.broadcast_object_list([None, f"rank 0 failed: {error!r}"], src=0)
            raise
    dist.broadcast_object_list(result, src=0)
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]
