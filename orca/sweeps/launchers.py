"""Hydra launchers whose jobs are processes: several at once on this machine, or on Ray."""

from __future__ import annotations

import os
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orca.errors import Stopped, UserError
from orca.paths import replacing
from orca.sweeps.jobs import ERROR_FILE, FAILED, NOT_RUN, Job, Outcome, StopRequest, run_process
from orca.sweeps.names import job_options

Report = Callable[[Job, Outcome], None]


def needs(module: str, option: str, extra: str) -> None:
    """Raises a UserError where ``module`` is not installed."""
    if find_spec(module) is None:
        raise UserError(f"{option} needs {module}: pip install -e '.[{extra}]'")


class ProcessLauncher(Launcher):
    """Starts every job as a process of its own. One that fails or is killed is told of and
    counted, the others go on; SIGTERM and Ctrl-C go to all jobs, which save and end."""

    option = ""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's; ``task_function`` is not called here but in the jobs' own processes."""
        self.context, self.task, self.config = hydra_context, task_function, config

    @abstractmethod
    def _run(self, jobs: Sequence[Job], stop: StopRequest, tell: Report) -> list[Outcome]:
        """Run the jobs and return how they ended, in their order."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs and wait for all of them.

        Raises:
            Stopped: the sweep was told to stop.
        """
        setup_globals()
        configs = [
            self._job_config(initial_job_idx + i, list(overrides))
            for i, overrides in enumerate(job_overrides)
        ]
        jobs = [self._job(config) for config in configs]
        for config in configs:
            self.context.callbacks.on_job_start(config=config, task_function=self.task)
        stop = StopRequest()

        def tell(job: Job, outcome: Outcome) -> None:
            well = "finished" if outcome.value is None else f"held-out loss {outcome.value:.4f}"
            print(f"job {job.number + 1}, {job.name}: {outcome.why or well}", flush=True)
            if outcome.status:
                (job.directory / ERROR_FILE).write_text(f"{outcome.why}\n", encoding="utf-8")

        with stop.listening():
            outcomes = self._run(jobs, stop, tell)
        if stop.received:
            done = sum(outcome.status == 0 for outcome in outcomes)
            raise Stopped(
                f"the sweep was told to stop ({stop.received[0]}), {done} of {len(jobs)} jobs "
                "had finished; the same command with resume=auto goes on"
            )
        return [self._return(*pair) for pair in zip(configs, outcomes, strict=True)]

    def _job_config(self, number: int, overrides: list[str]) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with read_write(config.hydra.runtime), open_dict(config.hydra):
            config.hydra.job.id, config.hydra.job.num = str(number), number
            HydraConfig.instance().set_config(config)  # the directory's name asks for it
            directory = Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)
            config.hydra.runtime.output_dir = str(directory.absolute())
        HydraConfig.instance().set_config(config)
        return config

    def _job(self, config: DictConfig) -> Job:
        directory = Path(config.hydra.runtime.output_dir)
        if OmegaConf.select(config, "trainer.num_nodes", default=1) != 1:
            raise UserError(
                f"{self.option} runs a job on one machine: trainer.num_nodes must be 1. "
                "hydra/launcher=submitit_slurm has jobs on several"
            )
        devices = OmegaConf.select(config, "trainer.devices", default=1)
        if devices in ("auto", -1) and self._machine_gpus():
            devices = self._machine_gpus()
        if not isinstance(devices, int) or devices < 1:
            raise UserError(
                f"{self.option} with trainer.devices={devices}: give the number for one job"
            )
        accelerator = OmegaConf.select(config, "trainer.accelerator", default="auto")
        has_gpus = accelerator != "cpu" and self._machine_gpus() > 0
        if has_gpus and devices > self._machine_gpus():
            raise UserError(
                f"trainer.devices={devices}: {self.option} finds {self._machine_gpus()} GPU(s) on "
                "one machine"
            )
        return Job(
            number=config.hydra.job.num,
            name=directory.name,
            directory=directory,
            arguments=job_options(config.hydra),
            gpus=devices if has_gpus else 0,
            ranks=devices,
        )

    @abstractmethod
    def _machine_gpus(self) -> int:
        """GPUs of the machine that has most."""

    def _return(self, config: DictConfig, outcome: Outcome) -> JobReturn:
        task_config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        returned = JobReturn(
            overrides=list(config.hydra.overrides.task),
            cfg=task_config,
            hydra_cfg=OmegaConf.masked_copy(config, "hydra"),
            working_dir=os.getcwd(),
            task_name=config.hydra.job.name,
            status=JobStatus.COMPLETED,
        )
        returned.return_value = outcome.value if outcome.status == 0 else FAILED
        self.context.callbacks.on_job_end(config=config, job_return=returned)
        return returned


class JoblibLauncher(ProcessLauncher):
    """Several jobs at once on this machine, each with GPUs or cores of its own.

    Args:
        n_jobs: jobs at once; -1: as many as there are GPUs for, or on CPU one for four cores
            (two on fewer than eight, where there are two).
    """

    option = "hydra/launcher=joblib"

    def __init__(self, n_jobs: int) -> None:
        needs("joblib", self.option, "sweep")
        self.n_jobs = n_jobs
        self.gpus = visible_gpus()

    def _machine_gpus(self) -> int:
        return len(self.gpus)

    def _run(self, jobs: Sequence[Job], stop: StopRequest, tell: Report) -> list[Outcome]:
        from joblib import Parallel, cpu_count, delayed

        cores = cpu_count()
        at_once = jobs_at_once(self.n_jobs, jobs, len(self.gpus), cores)
        threads = max(1, cores // (at_once * max(job.ranks for job in jobs)))
        print(f"{len(jobs)} job(s), {at_once} at once", flush=True)
        free = deque(self.gpus)  # never too few: at_once sees to that

        def run(job: Job) -> Outcome:
            if stop.urgency:
                return NOT_RUN
            environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
            mine = [free.popleft() for _ in range(job.gpus)]
            if mine:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            try:
                outcome = run_process(
                    job.command, job.directory, environment, lambda: stop.urgency, os.getcwd()
                )
            finally:
                free.extend(mine)
            tell(job, outcome)
            return outcome

        # Threads, for they only wait: what computes are the jobs' processes.
        parallel = Parallel(n_jobs=at_once, backend="threading", batch_size=1)
        return parallel(delayed(run)(job) for job in jobs)


def visible_gpus() -> list[str]:
    """The CUDA devices of this process, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = torch.cuda.device_count()
    return given.split(",")[:number] if given else [str(i) for i in range(number)]


def jobs_at_once(n_jobs: int, jobs: Sequence[Job], gpus: int, cores: int) -> int:
    """How many jobs run side by side.

    Raises:
        UserError: more than there are GPUs or cores for.
    """
    each = max(job.gpus for job in jobs)
    if each:
        room, what = gpus // each, f"{gpus} GPU(s), {each} for a job"
        wanted = room
    else:
        ranks = max(job.ranks for job in jobs)
        room, what = max(1, cores // ranks), f"{cores} core(s), {ranks} rank(s) in a job"
        wanted = min(room, max(2, cores // (4 * ranks)))
    if n_jobs != -1 and not 1 <= n_jobs <= room:
        raise UserError(
            f"hydra.launcher.n_jobs={n_jobs} on {what}: jobs would share them. Take 1 to {room}, "
            "or -1 for as many as makes sense"
        )
    return min(wanted if n_jobs == -1 else n_jobs, len(jobs))


class RayLauncher(ProcessLauncher):
    """Jobs as tasks of Ray, which gives each its GPUs, on this machine or a cluster whose machines
    see this directory, and this Python, at the same path.

    Args:
        address: ``local`` for a Ray of this sweep alone, ``auto`` for the running cluster.
        cpus_per_rank: cores that Ray keeps for each rank of a job; also its threads.
    """

    option = "hydra/launcher=ray"

    def __init__(self, address: str, cpus_per_rank: int) -> None:
        needs("ray", self.option, "ray")
        import ray

        self.cpus_per_rank = cpus_per_rank
        if not ray.is_initialized():
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(
                    address=address,
                    include_dashboard=False if address == "local" else None,
                    log_to_driver=False,
                    logging_level="error",
                )
            except ConnectionError as error:
                raise UserError(f"hydra.launcher.address={address}: {error}") from None
        self.nodes: list[dict[str, float]] = [
            node["Resources"] for node in ray.nodes() if node["Alive"]
        ]

    def _machine_gpus(self) -> int:
        return int(max(node.get("GPU", 0) for node in self.nodes))

    def _run(self, jobs: Sequence[Job], stop: StopRequest, tell: Report) -> list[Outcome]:
        import ray
        from ray.exceptions import RayError

        file = Path(self.config.hydra.sweep.dir).absolute() / f".stop-{uuid.uuid4().hex}"
        tasks = {}
        for job in jobs:
            remote = ray.remote(max_retries=0, **self._resources(job))(_ray_job)
            # Ray puts the GPUs into CUDA_VISIBLE_DEVICES and the cores into OMP_NUM_THREADS.
            task = remote.remote(job.command, str(job.directory), str(file), os.getcwd())
            tasks[task] = job
        outcomes: dict[int, Outcome] = {}
        try:
            while len(outcomes) < len(jobs):
                for task in ray.wait(list(tasks), num_returns=1, timeout=0.5)[0]:
                    job = tasks.pop(task)
                    try:
                        outcome = ray.get(task)
                    except RayError as error:
                        first = str(error).strip().splitlines()[0]
                        outcome = Outcome(-9, why=f"its Ray worker was lost ({first[:160]})")
                    outcomes[job.number] = outcome
                    if outcome != NOT_RUN:  # it was pickled
                        tell(job, outcome)
                if stop.urgency:
                    _write(file, stop.urgency)
        finally:
            file.unlink(missing_ok=True)
        return [outcomes[job.number] for job in jobs]

    def _resources(self, job: Job) -> Mapping[str, int]:
        needed = {"CPU": self.cpus_per_rank * job.ranks, "GPU": job.gpus}
        if not any(all(node.get(k, 0) >= n for k, n in needed.items()) for node in self.nodes):
            most = max(node.get("CPU", 0) for node in self.nodes)
            raise UserError(
                f"a job of {needed['CPU']} core(s) and {needed['GPU']} GPU(s) fits no machine of "
                f"Ray's (the largest has {most:g} cores): lower hydra.launcher.cpus_per_rank or "
                "trainer.devices"
            )
        return {"num_cpus": needed["CPU"], "num_gpus": needed["GPU"]}


def _ray_job(command: list[str], directory: str, stop_file: str, cwd: str) -> Outcome:
    """In a worker of Ray, perhaps on another machine: told to stop through a file."""
    file = Path(stop_file)

    def urgency() -> int:
        try:
            return int(file.read_text() or 0)
        except FileNotFoundError:
            return 0

    if urgency():
        return NOT_RUN
    return run_process(command, Path(directory), {}, urgency, cwd)


def _write(file: Path, urgency: int) -> None:
    with replacing(file) as partial:
        partial.write_text(str(urgency))
