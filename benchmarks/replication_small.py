"""The paper's claims in small: asks the models of `experiment=replication_small` and compares arms.

    python train.py -m experiment=replication_small
    python benchmarks/replication_small.py ask        # each model once, by evaluate.py; goes on
    python benchmarks/replication_small.py compare    # tables and a figure, from what was asked

Held-out questions of the sample are answered greedily, all 240; GSM8K, BBH and AGIEval by the
paper's protocol (temperature 0.7), a fixed part of each task. An arm's value for an item is its
mean over the seeds, and arms are compared item by item. The intervals are over items; differences
of each seed stand beside them, and a claim is decided only where items and seeds agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca.evaluation import Item, Sample, read_samples
from orca.evaluation.comparison import compare
from orca.evaluation.scores import TaskGrades, grade, score
from orca.evaluation.statistics import Interval
from orca.evaluation.table import Cell, Table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "replication_small"
BASE = "before training"
TITLES = {"held_out": "held-out", "agieval": "AGIEval", "bbh": "BBH", "gsm8k": "GSM8K"}
QUESTIONS = {
    # Longer than any explanation of the sample (173 tokens): a third of stage 2's are over 96.
    "held_out": ["benchmark=[held_out]", "protocol=greedy", "protocol.max_new_tokens=192"],
    "paper": [
        "benchmark=[gsm8k,bbh,agieval]", "fraction=0.02", "protocol=orca",
        "protocol.max_new_tokens=96",
    ],
}  # fmt: skip
"""What every model is asked: options of evaluate.py."""

LAST_STAGE = {
    "stage2_only": "flan1m_gpt4_only",
    **dict.fromkeys(
        ("stage1_only", "mixed", "mixed_few", "answers", "cot_rationales", "cot_answers"),
        "flan5m_chatgpt",
    ),
}
"""Of the arms that end in another stage than progressive learning."""

Arms = Mapping[str, Mapping[str, Sequence[TaskGrades]]]
"""What was graded, by arm and benchmark."""

MARGIN = 5.0
"""Points of accuracy that "costs nothing" may cost."""


@dataclass(frozen=True)
class Claim:
    """Before any result: the first arm is better than the second, or costs no more than
    ``MARGIN``."""

    first: str
    second: str
    meaning: str
    costs_nothing: bool = False


CLAIMS = (
    Claim("progressive", "stage2_only", "Two stages beat stage 2 alone at equal target tokens"),
    Claim("progressive", "stage1_only", "Two stages beat stage 1 alone at equal target tokens"),
    Claim("progressive", "mixed", "The order of the stages matters: two stages beat one shuffle"),
    Claim("mixed", "answers", "Explanations beat answers at as many tokens read"),
    Claim("mixed_few", "answers", "Explanations beat answers at as many target tokens"),
    Claim("cot_rationales", "cot_answers", "Human rationales beat answers, the same queries"),
    Claim("progressive", "no_system_message", "System messages help"),
    Claim("progressive", "by_length", "Shuffling beats short to long"),
    Claim("progressive", "by_difficulty", "Shuffling beats easy to hard"),
    Claim("progressive", "contaminated", "Isolated examples beat packs without boundaries"),
    Claim("progressive", "unpacked", "Packing costs nothing", costs_nothing=True),
)


def models() -> dict[tuple[str, int], Path]:
    """Finished models by arm and seed: the last stage's ``hf/``."""
    found = {}
    for job in sorted(RUNS.glob("arm=*,seed=*")):
        arm, seed = (part.split("=")[1] for part in job.name.split(","))
        last = job / LAST_STAGE.get(arm, "flan1m_gpt4")
        if (last / "results.json").exists():
            found[arm, int(seed)] = last / "hf"
    return found


def ask() -> None:
    """Ask every finished model, and the one before training, what it has not been asked yet."""
    jobs = [(f"{arm}, seed {seed}", path) for (arm, seed), path in models().items()]
    for name, model in [(BASE, None), *jobs]:
        for kind, options in QUESTIONS.items():
            out = RUNS / "before" / kind if model is None else model.parents[1] / kind
            if (out / "report.json").exists():
                continue
            print(f"{name}: {kind}", flush=True)
            command = [sys.executable, str(ROOT / "evaluate.py"), f"name={name!r}"]
            command += [f"model={str(model or 'smollm2_135m')!r}", f"out={str(out)!r}", *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def samples_of_arms() -> dict[str, list[Sample]]:
    """Answers by arm; an arm's seeds are its draws."""
    found: dict[str, list[Sample]] = defaultdict(list)
    places = [(BASE, 0, RUNS / "before")]
    places += [(arm, seed, path.parents[1]) for (arm, seed), path in models().items()]
    for arm, seed, directory in places:
        for kind in QUESTIONS:
            if (directory / kind / "report.json").exists():
                draw = max(0, seed - 1)
                found[arm] += [
                    dataclasses.replace(one, draw=draw) for one in read_samples(directory / kind)
                ]
    return found


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


def accuracies(tasks: Sequence[TaskGrades]) -> np.ndarray:
    """Macro averages by seed, per cent, float64 [seeds]."""
    return 100 * np.mean([np.nanmean(one.correct, axis=0) for one in tasks], axis=0)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted for several tests of one family (Holm, 1979); None stays None."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = highest
    return adjusted


def verdict(
    points: Interval, p_value: float | None, by_seed: np.ndarray, costs_nothing: bool = False
) -> str:
    """``holds``, ``does not hold`` (the opposite does), or ``cannot tell``.

    The items must say so beyond chance, and every seed with them: the interval over items does
    not know how much another seed would change.

    Args:
        points: first arm less second, and its interval.
        p_value: adjusted; None of too few items.
        by_seed: the same of each seed, [seeds].
    """
    if costs_nothing and points.low > -MARGIN and (by_seed > -MARGIN).all():
        return "holds"
    if p_value is None or p_value >= 0.05:
        return "cannot tell"
    if (by_seed < 0).all():
        return "does not hold"
    return "holds" if (by_seed > 0).all() and not costs_nothing else "cannot tell"


def claims_table(arms: Arms, benchmark: str) -> Table:
    """What a benchmark says of every claim whose arms it knows; one family of tests."""
    known = [one for one in CLAIMS if one.first in arms and one.second in arms]
    pairs = [(arms[one.first][benchmark], arms[one.second][benchmark]) for one in known]
    found = [compare(*pair)[-1] for pair in pairs]
    rows: list[tuple[Cell, ...]] = []
    adjusted = holm([one.p_value for one in found])
    for claim, pair, own, p_value in zip(known, pairs, found, adjusted, strict=True):
        first, second = map(accuracies, pair)
        seeds = min(len(first), len(second))
        by_seed, points = first[:seeds] - second[:seeds], own.difference.times(100)
        rows.append((
            claim.meaning, f"{claim.first} − {claim.second}", points,
            ", ".join(f"{value:+.1f}" for value in by_seed),
            "too few items" if p_value is None else f"{p_value:.2g}",
            verdict(points, p_value, by_seed, claim.costs_nothing),
        ))  # fmt: skip
    head = ("claim", "difference", "points", "by seed", "p (Holm)", "verdict")
    items = found[0].items if found else 0
    return Table(f"Claims, by the {items} items of {benchmark}", head, tuple(rows))


def graded_arms() -> Arms:
    """By arm and benchmark; the model before training first, arms in the order of the claims."""
    found = {name: grades(samples) for name, samples in samples_of_arms().items()}
    order = [BASE, *(arm for one in CLAIMS for arm in (one.first, one.second)), *found]
    return {name: found[name] for name in dict.fromkeys(order) if name in found}


def tables(arms: Arms) -> list[Table]:
    benchmarks = list(next(iter(arms.values())))
    rows: list[tuple[Cell, ...]] = []
    for name, own in arms.items():
        row: list[Cell] = [name]
        for benchmark in benchmarks:
            average = score(own[benchmark])[-1]
            row += [average.accuracy.times(100), None if average.spread is None
                    else f"{100 * average.spread:.1f}"]  # fmt: skip
        rows.append((*row, max(len(g.correct[0]) for g in own[benchmarks[0]])))
    head = ("arm", *(h for b in benchmarks for h in (b, "± seeds")), "seeds")
    return [
        Table("Accuracy by arm, % (mean over seeds and tasks)", head, tuple(rows)),
        *(claims_table(arms, benchmark) for benchmark in benchmarks),
    ]


def figure(arms: Arms, path: Path) -> None:
    """Every arm's accuracy with its interval and its seeds, one panel a benchmark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    benchmarks = list(next(iter(arms.values())))
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
        panel.set_title(f"{TITLES.get(benchmark, benchmark)} ({items} questions)", fontsize=10)
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
    parser.add_argument("do", choices=("ask", "compare"))
    if parser.parse_args().do == "ask":
        ask()
        return
    arms = graded_arms()
    for table in tables(arms):
        print(table.markdown(), end="\n\n")
    results = [json.loads(file.read_text()) for file in sorted(RUNS.glob("*/*/results.json"))]
    seconds = sum(one["seconds"] for one in results)
    print(f"{len(results)} stages trained in {seconds / 60:.0f} minutes")
    figure(arms, RUNS / "arms.png")
    print(RUNS / "arms.png")


if __name__ == "__main__":
    main()
