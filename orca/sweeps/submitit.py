"""Hydra's submitit launcher, but one job that is lost does not lose what the others return."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import OmegaConf

from orca.errors import Stopped
from orca.sweeps.jobs import FAILED, StopRequest


class SubmititLauncher(BaseSubmititLauncher):
    """Every job of a sweep as a job of SLURM, or (``local``) as a process of this machine.

    Told to stop, the sweep cancels its jobs. Killed, it leaves them to SLURM, which runs them.
    """

    INIT = ("max_num_timeout",)  # what submitit wants when its executor is made

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Queue the jobs and wait for all of them.

        Raises:
            Stopped: the sweep was told to stop.
        """
        import submitit  # late, as Hydra looks at plugins whenever a program starts

        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        own = {k: v for k, v in self.params.items() if k not in ("submitit_folder", *self.INIT)}
        general = set(OmegaConf.structured(BaseQueueConf).keys())
        executor = submitit.AutoExecutor(
            folder=self.params["submitit_folder"],
            cluster=self._EXECUTOR,
            **{f"{self._EXECUTOR}_{k}": self.params[k] for k in self.INIT if k in self.params},
        )
        executor.update_parameters(
            **{k if k in general else f"{self._EXECUTOR}_{k}": v for k, v in own.items()}
        )
        state = Singleton.get_state()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        stop = StopRequest()
        with stop.listening():
            jobs = executor.map_array(self, *zip(*arguments, strict=True))
            print(f"{len(jobs)} job(s): {', '.join(job.job_id for job in jobs)}", flush=True)
            cancelled = 0
            while not all(job.done() for job in jobs):
                if stop.urgency > cancelled:
                    cancelled = stop.urgency
                    for job in jobs:
                        if not job.done():
                            job.cancel(check=False)
                time.sleep(0.5)
        if stop.received:
            raise Stopped(
                f"the sweep was told to stop ({stop.received[0]}) and has cancelled its jobs; the "
                "same command with resume=auto goes on"
            )
        return [self._result(*pair) for pair in zip(jobs, job_overrides, strict=True)]

    def _result(self, job: Any, overrides: Sequence[str]) -> JobReturn:
        try:
            returned: JobReturn = job.results()[0]
            reason = str(returned._return_value) if returned.status == JobStatus.FAILED else ""
        except Exception as error:  # submitit has several, and passes on those of the job
            returned = JobReturn(overrides=list(overrides), cfg=self.config)
            reason = f"{type(error).__name__}, see {job.paths.stderr}"
        if reason:
            print(f"error in job {job.job_id} ({' '.join(overrides)}): {reason}", file=sys.stderr)
            returned.status, returned.return_value = JobStatus.COMPLETED, FAILED
        self.hydra_context.callbacks.on_job_end(config=self.config, job_return=returned)
        return returned


class SlurmLauncher(SubmititLauncher):
    """hydra/launcher=submitit_slurm"""

    _EXECUTOR = "slurm"


class LocalLauncher(SubmititLauncher):
    """hydra/launcher=submitit_local"""

    _EXECUTOR = "local"
