"""Several ranks: how they are started, and how they agree.

A run on several devices is started in one way: `train.py` starts torchrun's agent for itself with
the options of this one job. So the ranks of a job share its directory, a job of a sweep does not
start the sweep again, and `torchrun` and SLURM on many nodes (which start the ranks themselves)
need no other path.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, ListConfig
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from orca.errors import UNFINISHED_STATUS, Stopped, Unfinished, UserError
from orca.processes import end_with_parent

STOP_SIGNALS = "SIGTERM,SIGUSR1,SIGINT,SIGHUP,SIGQUIT"
"""What the agent passes on to its ranks; :mod:`orca.training.preemption` answers it there."""

SECONDS_TO_SAVE = "300"
"""How long ranks that were told to stop may take for their last checkpoint, unless the variable
TORCH_ELASTIC_SHUTDOWN_TIMEOUT says otherwise."""


def is_rank() -> bool:
    """Whether a launcher (torchrun or SLURM with several tasks) has started this process."""
    # SLURM_NTASKS would not do: a batch script without srun has it too, and is alone.
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return "TORCHELASTIC_RUN_ID" in os.environ or tasks > 1


def _check_launcher() -> None:
    """Another launcher's ranks would each take themselves for the only one."""
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        size = os.environ.get(name) or "1"
        if size != "1" and not is_rank():
            raise UserError(
                f"{name}={size} says that this process is one of several ranks, but neither "
                "torchrun nor srun has started it: start train.py by one of these, or by itself "
                f"with trainer.devices=N and without {name}"
            )


def is_restarted() -> bool:
    """Whether torchrun has started this rank again after a failure (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def needs_ranks(config: DictConfig) -> bool:
    """Whether this process must start ranks before it can train.

    Raises:
        UserError: several devices with a strategy for one, or a launcher that is not known here.
    """
    _check_launcher()
    wanted, here = config.trainer.accelerator, torch.cuda.device_count()
    number = config.trainer.devices
    if isinstance(number, ListConfig) and len(number) > 1:
        raise UserError(
            f"trainer.devices={list(number)}: give their number, and choose which with "
            "CUDA_VISIBLE_DEVICES"
        )
    if wanted in ("gpu", "cuda") and here < (number if isinstance(number, int) else 1):
        raise UserError(
            f"trainer.accelerator={wanted} with trainer.devices={number}: this machine has {here} "
            "GPU(s). Ask for fewer, or try it out on the CPU: trainer.accelerator=cpu model=tiny "
            "data=sample"
        )
    alone = number == 1 or (isinstance(number, ListConfig) and len(number) == 1)
    several = not alone or config.trainer.num_nodes != 1
    if config.strategy.name == "single":
        if several or is_rank():
            where = ", by a launcher of several ranks" if is_rank() else ""
            raise UserError(
                f"strategy=single trains on one device, trainer.devices={number} on "
                f"{config.trainer.num_nodes} node(s) is asked for{where}. Take strategy=ddp, where "
                "the model fits one device, or strategy=fsdp"
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
        Unfinished: the run stopped early (a signal, a time limit) or lost a rank, and can go on.
        UserError: a rank failed (its own message is above).
    """
    if devices in ("auto", -1):
        devices = torch.cuda.device_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it ourselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(devices),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=STOP_SIGNALS,
    )
    try:
        elastic_launch(config, sys.executable)(program, *overrides)
    except SignalException as stop:
        raise Stopped(f"told to stop ({stop.sigval.name}); resume=auto goes on") from None
    except ChildFailedError as error:
        raise _explain({rank: f.exitcode for rank, f in error.failures.items()}) from None


def _explain(statuses: dict[int, int]) -> Exception:
    """What became of a job whose ranks ended with these exit statuses (those that failed)."""
    if 2 in statuses.values():
        return UserError("the ranks ended with the error above")
    if UNFINISHED_STATUS in statuses.values():
        return Unfinished("the run stopped before its end; resume=auto goes on")
    own = {r: s for r, s in statuses.items() if s != -signal.SIGTERM}  # that is the launcher's
    killed = {r: s for r, s in own.items() if s < 0}
    if killed:  # the others then fail in the collective that they were in
        rank, status = min(killed.items())
        return Unfinished(
            f"rank {rank} was killed ({signal.Signals(-status).name}; SIGKILL without a cause is "
            "often the machine out of memory). resume=auto goes on from the last checkpoint"
        )
    rank, status = min((own or statuses).items())
    return UserError(f"rank {rank} ended with status {status}; its first error is above")


def join_ranks(timeout: timedelta) -> None:
    """Connect this rank with the others, over gloo for CPU tensors and NCCL for CUDA tensors.

    Args:
        timeout: how long a collective may wait for the other ranks.
    """
    if dist.is_initialized() or not is_rank():
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()  # a killed launcher must not leave ranks that train on
    if "RANK" not in os.environ:  # SLURM has names of its own
        try:
            slurm = SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # tasks that are not counted by node
            raise UserError(str(error)) from None
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
        os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
        os.environ["GROUP_RANK"] = os.environ["SLURM_NODEID"]
        os.environ.setdefault("MASTER_ADDR", slurm.main_address)
        os.environ.setdefault("MASTER_PORT", str(slurm.main_port))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    if is_restarted() and os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps one store over all its restarts, and ranks would find in it the addresses
        # of those that are gone (pytorch/pytorch#167288). Over several nodes there is no number of
        # the attempt that all know: docs/architecture.md names torchrun's own way out.
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        attempt = dist.PrefixStore(f"restart_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group(backend, timeout=timeout, store=attempt, rank=rank, world_size=size)
    else:
        dist.init_process_group(backend, timeout=timeout)


def world() -> tuple[int, int]:
    """(this rank, number of ranks)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_rank_zero() -> bool:
    """Whether this process speaks for the run."""
    return world()[0] == 0


def gather_objects(value: Any, group: Any = None) -> list[Any]:
    """``value`` of every rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world()[1]
    dist.all_gather_object(values, value, group=group)
    return values


def on_rank_zero(function: Callable[[], Any], group: Any = None) -> Any:
    """What ``function`` returns on rank 0, on every rank; its errors too, as :class:`UserError`
    or, where they are none, as a :class:`RuntimeError` on the others."""
    if not dist.is_initialized():
        return function()
    outcome: list[Any] = [None, None, None]
    own: BaseException | None = None
    if is_rank_zero():
        try:
            outcome[0] = function()
        except BaseException as error:  # the others must not wait for ever
            own = error
            outcome[1 if isinstance(error, UserError) else 2] = str(error) or repr(error)
    dist.broadcast_object_list(outcome, src=0, group=group)
    if own is not None:
        raise own
    if outcome[1] is not None:
        raise UserError(outcome[1])
    if outcome[2] is not None:
        raise RuntimeError(f"rank 0 failed: {outcome[2]}")
    return outcome[0]
