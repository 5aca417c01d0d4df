"""A Hydra sweeper that lets Optuna choose the options: a study that can be gone on with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from orca.errors import Stopped, UserError
from orca.sweeps.launchers import needs

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

BEST_FILE = "optimization_results.yaml"


class OptunaSweeper(Sweeper):
    """Minimizes what jobs return, the held-out loss.

    A trial that fails is counted and told of, but tells Optuna nothing. One that an interrupted
    sweep left unfinished is run first when the sweep goes on. A trial's options depend on the
    seed, its number and the results before, so a study in one go and one in pieces are the same.

    Args:
        n_trials: of the study, those of earlier runs of the command counted.
        n_jobs: trials that are chosen together, and run side by side where the launcher can.
        storage: URL of Optuna's data base.
        seed: of the sampler.
        sampler: ``_target_`` and arguments of a sampler, its seed aside.
        params: options as on the command line: ``interval(a,b)``, ``tag(log,interval(a,b))``,
            ``range(a,b)``, ``choice(a,b)``, or one value.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        storage: str,
        study_name: str,
        seed: int,
        sampler: DictConfig,
        params: DictConfig,
    ) -> None:
        needs("optuna", "hydra/sweeper=optuna", "sweep")
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.storage, self.study_name = storage, study_name
        self.seed, self.sampler, self.params = seed, sampler, params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the study to its end and write ``optimization_results.yaml``."""
        assert self.config is not None
        if "resume" in self.config and self.config.resume != "auto":
            raise UserError(
                "hydra/sweeper=optuna goes on with what its study has begun: give resume=auto"
            )
        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".study.lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            raise UserError(f"another process runs the study in {directory}") from None
        try:
            self._sweep(arguments, directory)
        finally:
            lock.release()

    def _sweep(self, arguments: list[str], directory: Path) -> None:
        import optuna
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        given = [*(f"{key!s}={value}" for key, value in self.params.items()), *arguments]
        fixed, space = search_space(given)
        if not space:
            raise UserError(
                "hydra/sweeper=optuna has nothing to vary: give an option an interval, such as "
                "'optimizer.lr=tag(log,interval(1e-5,1e-3))', or a choice"
            )
        study = optuna.create_study(
            study_name=self.study_name,
            storage=self.storage,
            direction="minimize",
            load_if_exists=True,
        )
        _check_fixed(study, fixed)
        left = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        numbers = [trial.number for trial in left if set(trial.params) == set(space)]
        for trial in left:
            if trial.number not in numbers:  # another search space's
                study.tell(trial.number, state=TrialState.FAIL)
        done = len(study.trials) - len(numbers)
        if done:
            print(f"study: {done} of {self.n_trials} trials are done", flush=True)
        while done < self.n_trials:
            size = min(max(1, self.n_jobs), self.n_trials - done)
            while len(numbers) < size:
                numbers.append(self._ask(study, space))
            batch, numbers = numbers[:size], numbers[size:]
            self._run(study, batch, fixed)
            done += size
        self._report(study, directory)

    def _ask(self, study: Study, space: dict[str, BaseDistribution]) -> int:
        # A sampler for every trial, because one that is made again starts its seed again, and
        # would propose what the study before an interruption began with.
        seed = self.seed + len(study.trials)
        study.sampler = instantiate(self.sampler, seed=seed)
        try:
            return study.ask(fixed_distributions=space).number
        except ValueError as error:
            raise UserError(
                f"the study cannot go on with these ranges and choices ({error}): start another "
                "with run=NAME"
            ) from None

    def _run(self, study: Study, batch: Sequence[int], fixed: dict[str, str]) -> None:
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False)
        options = [
            tuple(f"{k}={v}" for k, v in {**fixed, **trials[number].params}.items())
            for number in batch
        ]
        distinct = list(dict.fromkeys(options))  # trials that are alike are one job's directory
        assert self.launcher is not None
        returned = self.launcher.launch([list(one) for one in distinct], initial_job_idx=batch[0])
        jobs = dict(zip(distinct, returned, strict=True))
        for number, own in zip(batch, options, strict=True):
            value = _value(jobs[own])
            if value is None:
                study.tell(number, state=TrialState.FAIL)
            else:
                study.tell(number, value)

    def _report(self, study: Study, directory: Path) -> None:
        from optuna.trial import TrialState

        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not complete:
            raise UserError(
                f"no trial of the study in {directory} has finished with a held-out loss: see its "
                "jobs' errors, and that there is validation data"
            )
        best = study.best_trial
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(
            f"study: {len(complete)} of {len(study.trials)} trials finished; the best, number "
            f"{best.number}, has {best.value:.4f} with {chosen}",
            flush=True,
        )
        results = {
            "best_value": best.value,
            "best_params": dict(best.params),
            "best_trial": best.number,
            "finished": len(complete),
            "trials": len(study.trials),
        }
        OmegaConf.save(OmegaConf.create(results), directory / BEST_FILE)


def _check_fixed(study: Study, fixed: dict[str, str]) -> None:
    """Losses of jobs with other options do not compare.

    Raises:
        UserError: the study began with other options.
    """
    # Late, for Hydra looks at every plugin.
    from orca.training.directory import MAY_DIFFER, is_below

    free = (*MAY_DIFFER, "hydra")
    names = {key: key.lstrip("+~").split("@")[0].replace("/", ".") for key in fixed}
    own = {key: value for key, value in fixed.items() if not is_below(names[key], free)}
    known = study.user_attrs.get("options", own)
    differing = [
        f"{key}: {known.get(key, 'not given')} → {own.get(key, 'not given')}"
        for key in sorted({*known, *own})
        if known.get(key) != own.get(key)
    ]
    if differing:
        raise UserError(
            f"the study began with other options ({'; '.join(differing)}), whose losses do not "
            "compare: start another with run=NAME"
        )
    study.set_user_attr("options", own)


def _value(job: JobReturn) -> float | None:
    """What the job returned; None where it failed or has no number.

    Raises:
        Stopped: it was told to stop, and so the sweep is.
    """
    try:
        value = job.return_value
    except Stopped:
        raise
    except Exception:
        return None
    return float(value) if value is not None and math.isfinite(value) else None


def search_space(
    arguments: Sequence[str],
) -> tuple[dict[str, str], dict[str, BaseDistribution]]:
    """Options of the command line as (fixed ones, distributions); of a name, the last counts.

    Raises:
        UserError: a sweep that Optuna has no distribution for.
    """
    fixed: dict[str, str] = {}
    space: dict[str, BaseDistribution] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.get_key_element()
        fixed.pop(key, None)
        space.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = override.get_value_element_as_str()
    return fixed, space


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value: Any = override.value()
    tags: set[str] = getattr(value, "tags", set())
    if tags - {"log"}:
        raise UserError(f"{override.input_line}: Optuna knows the tag log alone")
    log = "log" in tags
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if isinstance(value, IntervalSweep):
        low: Any = value.start
        high: Any = value.end
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    if isinstance(value, RangeSweep):
        numbers: list[Any] = list(override.sweep_iterator(Transformer.identity))
        if not numbers:
            raise UserError(f"{override.input_line}: the range is empty")
        is_whole = all(isinstance(number, int) for number in numbers)
        if log and (value.step != 1 or not is_whole):
            raise UserError(f"{override.input_line}: Optuna has no logarithmic range with a step")
        low, high = min(numbers), max(numbers)
        if is_whole:
            return IntDistribution(low, high, step=abs(int(value.step)), log=log)
        return FloatDistribution(low, high, step=abs(float(value.step or 1)))
    raise UserError(f"{override.input_line}: Optuna takes an interval, a range or a choice")
