"""What the models of `experiment=replication_small` answered, without the benchmarks' texts.

A directory has ``answers.csv``, a row for each question and a column for each model;
``models.json``, which weights answered and how they were trained; and ``asked.json``, the questions
and protocols. It is enough for every table of the study: benchmarks/results/replication_small is
the published one, as runs are 270 MB a model and the texts are other people's.

A mark has a letter for the paper's rule and one for the stated answer, r(ight), w(rong) or n(one
found), and a c where the answer was cut at its limit of tokens: ``wr``, ``nnc``. ``f``: failed.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from orca.errors import UserError
from orca.evaluation import Sample, read_samples
from orca.evaluation.records import read_facts
from orca.paths import replacing
from orca.report import read_run
from orca.report.evaluations import read_evaluation

ANSWERS, MODELS, ASKED = "answers.csv", "models.json", "asked.json"
ITEM = ("benchmark", "task", "item")
RIGHT, WRONG = "right", "wrong"
LETTERS = {RIGHT: "r", WRONG: "w", "": "n"}
LABELS = {letter: label for label, letter in LETTERS.items()}


def keep(directory: Path, name: str, evaluations: Sequence[Path], run: Path | None) -> None:
    """Add a model's answers, or replace those of the weights before.

    Args:
        directory: of the three files; made where it is not there.
        name: of the model: ``mixed 2`` is seed 2 of an arm.
        evaluations: directories of evaluate.py.
        run: its training; None of a model that was not trained here.

    Raises:
        UserError: the run has been trained again since, or the others were asked something else.
    """
    directory.mkdir(exist_ok=True)
    with FileLock(directory / ".lock"):
        _keep(directory, name, evaluations, run)


def _keep(directory: Path, name: str, evaluations: Sequence[Path], run: Path | None) -> None:
    asked, models = (_read_json(directory / file) for file in (ASKED, MODELS))
    answers = _read_answers(directory)
    trained = _training(run) if run else {}
    for evaluation in evaluations:
        own = _asked(evaluation)
        if asked.setdefault(evaluation.name, own) != own:
            raise UserError(
                f"{evaluation} was asked {own}, the models before it {asked[evaluation.name]}"
            )
        asker = read_facts(evaluation)["model"]
        weights = asker.pop("weights")
        if run and not trained["weights"].startswith(weights):
            raise UserError(
                f"{evaluation} has answers of other weights than {run} has now: remove it, and ask "
                "again"
            )
        del asker["model"]  # a place on this machine
        models[name] = {"weights": weights, **trained, "engine": asker}
        for sample in read_samples(evaluation):
            item = (sample.benchmark, sample.task, sample.item)
            answers.setdefault(item, {})[name] = mark(sample)
    _write_answers(directory, answers)
    for file, content in ((ASKED, asked), (MODELS, models)):
        with replacing(directory / file) as partial:
            partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read(directory: Path) -> dict[str, list[Sample]]:
    """Answers by arm, their texts left out; an arm's seeds are its draws.

    Raises:
        UserError: nothing has been asked yet.
    """
    answers = _read_answers(directory)
    if not answers:
        raise UserError(f"{directory} has no {ANSWERS}: `replication_small.py ask` writes it")
    arms: dict[str, list[Sample]] = defaultdict(list)
    for item, marks in answers.items():
        for name, own in marks.items():
            arm, seed = name.rsplit(" ", 1)
            arms[arm].append(_sample(item, own, int(seed) - 1))
    return dict(arms)


def chances(directory: Path) -> dict[str, float]:
    """What a guess among the options is worth, a share, by benchmark with options."""
    asked = _read_json(directory / ASKED)
    return {name: share for one in asked.values() for name, share in one["chance"].items() if share}


def training_minutes(directory: Path) -> tuple[int, float]:
    """How many models were trained, and for how long in all."""
    models = _read_json(directory / MODELS).values()
    minutes = [one["minutes"] for one in models if "minutes" in one]
    return len(minutes), sum(minutes)


def mark(sample: Sample) -> str:
    """What an answer is worth."""
    if sample.finish_reason == "failed":
        return "f"
    labels = (sample.first_capital, sample.stated)
    letters = ["n" if not one else "r" if one in sample.gold else "w" for one in labels]
    return "".join(letters) + "c" * (sample.finish_reason == "length")


def _sample(item: tuple[str, ...], marks: str, draw: int) -> Sample:
    """An answer whose mark is ``marks``."""
    benchmark, task, name = item
    reason = "failed" if marks == "f" else "length" if marks.endswith("c") else "stop"
    first, stated = ("", "") if marks == "f" else (LABELS[letter] for letter in marks[:2])
    return Sample(
        item=name, benchmark=benchmark, task=task, draw=draw, seed=draw, system_message=1,
        prompt="", text="", finish_reason=reason, gold=(RIGHT,), first_capital=first, stated=stated,
    )  # fmt: skip


def _asked(evaluation: Path) -> dict[str, Any]:
    """What must be the same for all models."""
    found = read_evaluation(evaluation)
    chance = {name: next(iter(own.values()))[-1].chance for name, own in found.scores.items()}
    return {"questions and protocol": json.loads(found.asked), "chance": chance}


def _training(directory: Path) -> dict[str, Any]:
    """Of all stages together, and the last one's weights and loss."""
    stages = read_run(directory).stages
    results, machine = [stage.results for stage in stages if stage.results], stages[-1].machine
    return {
        "weights": results[-1]["handoff"]["weights"],
        "held_out_loss": results[-1]["held_out_loss"]["after"],
        "steps": sum(one["steps"] for one in results),
        "target_tokens": sum(one["target_tokens"] for one in results),
        "minutes": round(sum(one["seconds"] for one in results) / 60, 1),
        **{name: machine[name] for name in ("device", "software", "commit")},
    }


def _read_answers(directory: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """By item, marks by model."""
    file = directory / ANSWERS
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {
            tuple(row.pop(column) for column in ITEM): {k: v for k, v in row.items() if v}
            for row in csv.DictReader(lines)
        }


def _write_answers(directory: Path, answers: dict[tuple[str, ...], dict[str, str]]) -> None:
    models = sorted({name for own in answers.values() for name in own})
    with (
        replacing(directory / ANSWERS) as partial,
        partial.open("w", newline="", encoding="utf-8") as lines,
    ):
        writer = csv.DictWriter(lines, (*ITEM, *models), lineterminator="\n")
        writer.writeheader()
        for item in sorted(answers):
            writer.writerow({**dict(zip(ITEM, item, strict=True)), **answers[item]})


def _read_json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
