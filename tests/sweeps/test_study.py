"""Optuna's study: what it proposes, what failed trials do to it, how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orca.config import CONF_DIR
from orca.errors import Stopped, UserError
from orca.sweeps.study import OptunaSweeper, search_space

optuna = pytest.importorskip("optuna")
SPACE = ["optimizer.lr=tag(log,interval(1e-5,1e-1))", "model=tiny"]


class Jobs:
    """In the place of a launcher: the value of each job is computed here."""

    def __init__(self, loss: Callable[[int, float], float]) -> None:
        self.loss = loss
        self.seen: list[str] = []

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returned = []
        for options in overrides:
            assert "model=tiny" in options
            (text,) = (o.partition("=")[2] for o in options if o.startswith("optimizer.lr="))
            self.seen.append(text)
            value = self.loss(len(self.seen), float(text))
            job = JobReturn(status=JobStatus.COMPLETED)
            job.return_value = value
            returned.append(job)
        return returned


def study(directory: Path, jobs: Jobs, n_trials: int, n_jobs: int = 1, **more: Any) -> None:
    conf = yaml.safe_load((CONF_DIR / "hydra/sweeper/optuna.yaml").read_text())
    for key in ("_target_", "_recursive_"):
        del conf[key]
    conf |= {
        "n_trials": n_trials,
        "n_jobs": n_jobs,
        "storage": f"sqlite:///{directory}/study.db",
        "study_name": "s",
    }
    sweeper = OptunaSweeper(**conf)
    sweeper.config = OmegaConf.create({"resume": "auto", **more})
    sweeper.config.hydra = {"sweep": {"dir": str(directory)}}
    sweeper.launcher = jobs  # type: ignore[assignment]
    sweeper.sweep(SPACE)


def parabola(_: int, lr: float) -> float:
    import math

    return (math.log10(lr) + 3) ** 2


def test_a_study_in_pieces_is_the_study_in_one_go(tmp_path: Path) -> None:
    """Twelve trials, past the ten that are drawn at random; one piece ends in a trial."""

    def interrupted(call: int, lr: float) -> float:
        if call == 7:
            raise Stopped("told to stop")
        return parabola(call, lr)

    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    whole, first, second = Jobs(parabola), Jobs(interrupted), Jobs(parabola)
    study(tmp_path / "whole", whole, 12)
    with pytest.raises(Stopped):
        study(tmp_path / "pieces", first, 12)
    study(tmp_path / "pieces", second, 12)
    assert first.seen[:7] == whole.seen[:7] and len(set(whole.seen)) == 12
    assert second.seen == whole.seen[6:]  # the one that was interrupted is run first
    again = Jobs(parabola)
    study(tmp_path / "pieces", again, 12)
    assert not again.seen
    results = [
        (tmp_path / name / "optimization_results.yaml").read_text() for name in ("whole", "pieces")
    ]
    best = yaml.safe_load(results[0])
    assert results[0] == results[1] and best["trials"] == best["finished"] == 12
    assert best["best_value"] == min(parabola(0, float(lr)) for lr in whole.seen)
    assert parabola(0, best["best_params"]["optimizer.lr"]) == best["best_value"]


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), None, RuntimeError("lost")])
def test_a_failed_trial_neither_ends_the_study_nor_counts_as_good(tmp_path: Path, bad: Any) -> None:
    class Some(Jobs):
        def launch(self, overrides: Any, initial_job_idx: int) -> list[JobReturn]:
            returned = super().launch(overrides, initial_job_idx)
            if len(self.seen) == 2:
                returned[-1].return_value = bad
                if isinstance(bad, Exception):
                    returned[-1].status = JobStatus.FAILED
            return returned

    jobs = Some(lambda call, lr: 10.0 + call)
    study(tmp_path, jobs, 4, n_jobs=2)
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    results = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert (results["best_value"], results["finished"], results["trials"]) == (11.0, 3, 4)


def test_a_study_of_failures_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trial of the study in .* has finished"):
        study(tmp_path, Jobs(lambda *_: float("inf")), 2)


def test_a_study_wants_resume_and_something_to_vary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give resume=auto"):
        study(tmp_path, Jobs(parabola), 2, resume=None)
    fixed, space = search_space(["a=1", "b=interval(1,3)", "a=choice(x,y)", "b=2"])
    assert fixed == {"b": "2"} and list(space) == ["a"]


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-8, 1.0), st.floats(1.5, 1e4), st.booleans())
def test_intervals_are_optunas(low: float, factor: float, log: bool) -> None:
    high = low * factor
    text = f"interval({low!r},{high!r})"
    _, space = search_space([f"x=tag(log,{text})" if log else f"x={text}"])
    assert space["x"] == optuna.distributions.FloatDistribution(low, high, log=log)


def test_every_kind_of_sweep_has_its_distribution() -> None:
    d = optuna.distributions
    _, space = search_space(
        [
            "a=int(interval(1,8))",
            "b=range(1,8,3)",
            "c=x,y",
            "+d=choice(1e-4,true)",
            "e=range(0,1,0.25)",
            "f=range(10,1,-1)",
            "g=shuffle(range(1,9))",
        ]
    )
    assert space == {
        "a": d.IntDistribution(1, 8),
        "b": d.IntDistribution(1, 7, step=3),
        "c": d.CategoricalDistribution(["x", "y"]),
        "+d": d.CategoricalDistribution(["0.0001", "True"]),
        "e": d.FloatDistribution(0.0, 0.75, step=0.25),
        "f": d.IntDistribution(2, 10),
        "g": d.IntDistribution(1, 8),
    }
    with pytest.raises(UserError, match="takes an interval, a range or a choice"):
        search_space(["f=glob(*)"])
    with pytest.raises(UserError, match="the range is empty"):
        search_space(["f=range(1,1)"])
    for stepped in ("range(0.1,1.0,0.1)", "range(1.0,9.0)", "range(1,64,4)"):
        with pytest.raises(UserError, match="no logarithmic range with a step"):
            search_space([f"f=tag(log,{stepped})"])
    with pytest.raises(UserError, match="the tag log alone"):
        search_space(["f=tag(lgo,interval(1,2))"])


def test_a_study_does_not_go_on_with_other_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_study.SPACE", ["optimizer.lr=choice(0.1,0.2)", "model=tiny"])
    study(tmp_path, Jobs(parabola), 1)
    monkeypatch.setattr("test_study.SPACE", ["optimizer.lr=choice(0.1,0.2,0.3)", "model=tiny"])
    with pytest.raises(UserError, match=r"cannot go on with these .*run=NAME"):
        study(tmp_path, Jobs(parabola), 2)


def test_a_study_goes_on_with_options_that_change_no_result_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(tmp_path, Jobs(parabola), 1)
    space = list(SPACE)
    # The loss of fewer batches is another objective; plan=… is no result, and planner=… might be.
    other = {
        "optimizer.weight_decay=0.3": "0.3",
        "trainer.limit_val_batches=2": "2",
        "planner=x": "x",
    }
    for option, value in other.items():
        monkeypatch.setattr("test_study.SPACE", [*space, option])
        with pytest.raises(UserError, match=f"not given → {value}.*run=NAME"):
            study(tmp_path, Jobs(parabola), 2)
    free = ["trainer.max_time=00:01:00:00", "hydra/launcher=joblib", "+logger.wandb.notes=n"]
    monkeypatch.setattr("test_study.SPACE", [*space, *free])
    jobs = Jobs(parabola)
    study(tmp_path, jobs, 2)
    assert len(jobs.seen) == 1


def test_trials_that_are_alike_are_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side they would train in one directory."""
    seen: list[list[str]] = []

    class Some(Jobs):
        def launch(self, overrides: Any, initial_job_idx: int) -> list[JobReturn]:
            seen.extend(overrides)
            return super().launch(overrides, initial_job_idx)

    space = ["optimizer.lr=choice(0.1,0.1)", "model=tiny"]
    monkeypatch.setattr("test_study.SPACE", space)
    study(tmp_path, Some(parabola), 3, n_jobs=3)
    assert seen == [["model=tiny", "optimizer.lr=0.1"]]
    results = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert results["finished"] == 3
