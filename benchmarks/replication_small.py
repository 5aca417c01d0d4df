"""The paper's claims in small: asks the models of `experiment=replication_small` and compares arms.

    python train.py -m experiment=replication_small
    python benchmarks/replication_small.py ask        # each model once, by evaluate.py; goes on
    python benchmarks/replication_small.py compare    # tables and a figure, from what was asked

`compare benchmarks/results/replication_small` compares what was published.

Held-out questions of the sample are answered greedily, all 240; GSM8K, BBH and AGIEval by the
paper's protocol (temperature 0.7), a fixed part of each task: no system message, as all benchmarks
of the paper. What decides a claim is in benchmarks/replication_claims.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import replication_answers
from replication_claims import CLAIMS, Arms, accuracies, claims_table

from orca.errors import UserError
from orca.evaluation import Item, Sample
from orca.evaluation.scores import TaskGrades, grade, score
from orca.evaluation.table import Cell, Table
from orca.report import read_run

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "replication_small"
BASE = "before training"
TITLES = {"held_out": "held-out", "agieval": "AGIEval", "bbh": "BBH", "gsm8k": "GSM8K"}
MULTIPLE_CHOICE = ("agieval", "bbh")
QUESTIONS = {
    # Longer than any explanation of the sample (173 tokens): a third of stage 2's are over 96.
    "held_out": ["benchmark=[held_out]", "protocol=greedy", "protocol.max_new_tokens=192"],
    "paper": [
        "benchmark=[gsm8k,bbh,agieval]", "fraction=0.02", "protocol=orca",
        "protocol.max_new_tokens=96",
    ],
}  # fmt: skip
"""What every model is asked: options of evaluate.py."""


def models() -> dict[str, Path]:
    """Finished models, the last stage's ``hf/``, by arm and seed: ``mixed 2``."""
    found = {}
    for job in sorted(RUNS.glob("arm=*,seed=*")):
        run = read_run(job)
        if run.state == "finished":
            name = " ".join(part.split("=")[1] for part in job.name.split(","))
            found[name] = run.stages[-1].path / "hf"
    return found


def ask(names: Sequence[str]) -> None:
    """Ask models what they have not been asked yet, and keep what their answers are worth.

    Args:
        names: as ``mixed 2``; none: every finished model, and the one before training.

    Raises:
        UserError: there is no such finished model, or it could not be asked.
    """
    known = {f"{BASE} 1": None, **models()}
    for name in names or known:
        if name not in known:
            raise UserError(f"{name!r} is none of the finished models {', '.join(known)}")
        model = known[name]
        run = None if model is None else model.parents[1]
        evaluations = [(run or RUNS / "before") / kind for kind in QUESTIONS]
        for out, options in zip(evaluations, QUESTIONS.values(), strict=True):
            if (out / "report.json").exists():
                continue
            print(f"{name}: {out.name}", flush=True)
            command = [sys.executable, str(ROOT / "evaluate.py"), f"name={name!r}"]
            command += [f"model={str(model or 'smollm2_135m')!r}", f"out={str(out)!r}", *options]
            status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
            if status:  # it has said why
                raise UserError(f"{name}: evaluate.py ended with status {status}")
        replication_answers.keep(RUNS, name, evaluations, run)


def grades(samples: list[Sample]) -> dict[str, list[TaskGrades]]:
    """By benchmark. The items are known by their answers: their gold and prompt are in them."""
    own: dict[str, list[Sample]] = defaultdict(list)
    for one in samples:
        own[one.benchmark].append(one)
    return {
        name: grade(given, {s.item: Item(s.item, name, s.task, s.prompt, gold=s.gold)
                            for s in given}.values())
        for name, given in own.items()
    }  # fmt: skip


def by_stated_answers(tasks: Sequence[TaskGrades]) -> list[TaskGrades]:
    """Graded by what an answer says its option is, not by its first capital letter."""
    return [dataclasses.replace(one, correct=one.stated, unparsed=one.unstated) for one in tasks]


def graded_arms(answers: Mapping[str, list[Sample]]) -> Arms:
    """By arm and benchmark; the model before training first, arms in the order of the claims."""
    found = {name: grades(samples) for name, samples in answers.items()}
    for own in found.values():
        own |= {f"{name}, stated": by_stated_answers(own[name]) for name in MULTIPLE_CHOICE
                if name in own}  # fmt: skip
    order = [BASE, *(arm for one in CLAIMS for arm in (one.first, one.second)), *found]
    return {name: found[name] for name in dict.fromkeys(order) if name in found}


def tables(arms: Arms, chance: Mapping[str, float]) -> list[Table]:
    benchmarks = list(next(iter(arms.values())))
    rows: list[tuple[Cell, ...]] = []
    for name, own in arms.items():
        row: list[Cell] = [name]
        for benchmark in benchmarks:
            average = score(own[benchmark])[-1]
            row += [average.accuracy.times(100), None if average.spread is None
                    else f"{100 * average.spread:.1f}"]  # fmt: skip
        rows.append((*row, int(np.isfinite(accuracies(own[benchmarks[0]])).sum())))
    head = ("arm", *(h for b in benchmarks for h in (b, "± seeds")), "seeds")
    guesses = (f"{100 * chance[b]:.1f}" if b in chance else None for b in benchmarks)
    rows.append(("a guess", *(cell for guess in guesses for cell in (guess, None)), None))
    return [
        Table("Accuracy by arm, % (mean over seeds and tasks)", head, tuple(rows)),
        *(claims_table(arms, benchmark) for benchmark in benchmarks),
    ]


def cut_table(answers: Mapping[str, list[Sample]]) -> Table:
    """How many answers were longer than they might be."""
    benchmarks = list(dict.fromkeys(one.benchmark for own in answers.values() for one in own))
    rows: list[tuple[Cell, ...]] = []
    for name, own in answers.items():
        ends: dict[str, list[bool]] = {one: [] for one in benchmarks}
        for sample in own:
            ends[sample.benchmark].append(sample.finish_reason == "length")
        shares = (round(100 * sum(x) / len(x), 1) if x else None for x in ends.values())
        rows.append((name, *shares))
    return Table("Answers cut at the limit of tokens, %", ("arm", *benchmarks), tuple(rows))


def figure(arms: Arms, chance: Mapping[str, float], path: Path) -> None:
    """Every arm's accuracy with its interval and its seeds, one panel a benchmark.

    Dotted the model before training, dashed a guess.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    benchmarks = [b for b in TITLES if b in next(iter(arms.values()))]
    picture, panels = pyplot.subplots(
        1, len(benchmarks), figsize=(3.2 * len(benchmarks), 0.34 * len(arms) + 1.4), sharey=True
    )
    for panel, benchmark in zip(panels, benchmarks, strict=True):
        for place, own in enumerate(arms.values()):
            value = score(own[benchmark])[-1].accuracy.times(100)
            error = [[value.value - value.low], [value.high - value.value]]
            colour = "#1f5a8a" if place else "#888888"
            panel.errorbar(value.value, place, xerr=error, fmt="o", color=colour, capsize=2)
            seeds = accuracies(own[benchmark])
            panel.plot(seeds, [place + 0.28] * len(seeds), ".", color=colour, alpha=0.5)
            if not place:
                panel.axvline(value.value, color=colour, linestyle=":", linewidth=1)
        items = sum(len(one.ids) for one in next(iter(arms.values()))[benchmark])
        if benchmark in chance:
            panel.axvline(100 * chance[benchmark], color="#b04a3a", linestyle="--", linewidth=1)
        panel.set_title(f"{TITLES[benchmark]} ({items} questions)", fontsize=10)
        panel.set_xlabel("accuracy, %")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="#dddddd")
    panels[0].set_yticks(range(len(arms)), list(arms))
    panels[0].invert_yaxis()
    picture.tight_layout()
    picture.savefig(path, dpi=130)
    pyplot.close(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    programs = parser.add_subparsers(dest="do", required=True)
    one = programs.add_parser("ask", help="ask finished models what they have not been asked")
    one.add_argument("models", nargs="*", help="as 'mixed 2'; several processes may ask; all")
    one = programs.add_parser("compare", help="tables and a figure")
    one.add_argument("directory", type=Path, nargs="?", default=RUNS, help="where answers are kept")
    arguments = parser.parse_args()
    if arguments.do == "ask":
        ask(arguments.models)
    else:
        print_comparison(arguments.directory)


def print_comparison(directory: Path) -> None:
    """Tables of what is kept in ``directory``, and the figure beside it."""
    answers, chance = replication_answers.read(directory), replication_answers.chances(directory)
    arms = graded_arms(answers)
    for table in (*tables(arms, chance), cut_table({name: answers[name] for name in arms})):
        print(table.markdown(), end="\n\n")
    trained, minutes = replication_answers.training_minutes(directory)
    print(f"{trained} models trained in {minutes:.0f} minutes")
    figure(arms, chance, directory / "arms.png")
    print(directory / "arms.png")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
