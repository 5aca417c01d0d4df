"""The paper's claims in small: asks the models of `experiment=replication_small` and compares arms.

    python train.py -m experiment=replication_small
    python benchmarks/replication_small.py ask        # each model once, by evaluate.py; goes on
    python benchmarks/replication_small.py compare    # tables and a figure, from what was asked

Held-out questions of the sample are answered greedily, all 240; GSM8K, BBH and AGIEval by the
paper's protocol (temperature 0.7), a fixed part of each task. An arm's value for an item is its
mean over the seeds, and arms are compared item by item. The intervals are over items; the spread
over seeds stands beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from orca.evaluation import Item, Sample, read_samples
from orca.evaluation.comparison import compare
from orca.evaluation.scores import TaskGrades, grade, score
from orca.evaluation.table import Cell, Table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "replication_small"
BASE = "before training"
QUESTIONS = {
    "held_out": ["benchmark=[held_out]", "protocol=greedy", "protocol.max_new_tokens=96"],
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

CLAIMS = (
    ("progressive", "stage2_only", "Two stages beat stage 2 alone at equal target tokens"),
    ("progressive", "stage1_only", "Two stages beat stage 1 alone at equal target tokens"),
    ("progressive", "mixed", "The order of the stages matters: two stages beat one shuffle"),
    ("mixed", "answers", "Explanations beat answers at as many tokens read"),
    ("mixed_few", "answers", "Explanations beat answers at as many target tokens"),
    ("cot_rationales", "cot_answers", "Human rationales beat answers, the same queries"),
    ("progressive", "no_system_message", "System messages help"),
    ("progressive", "by_length", "Shuffling beats short to long"),
    ("progressive", "by_difficulty", "Shuffling beats easy to hard"),
    ("progressive", "contaminated", "Isolated examples beat packs without boundaries"),
    ("progressive", "unpacked", "Packing costs nothing"),
)
"""First arm, second arm, and what it means when the first is better."""


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


def tables() -> list[Table]:
    arms = {name: grades(samples) for name, samples in samples_of_arms().items()}
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
    claims: list[tuple[Cell, ...]] = []
    for first, second, meaning in CLAIMS:
        if first not in arms or second not in arms:
            continue
        for benchmark in benchmarks:
            found = compare(arms[first][benchmark], arms[second][benchmark])[-1]
            sure = "cannot tell" if found.difference.low <= 0 <= found.difference.high else (
                "holds" if found.difference.low > 0 else "does not hold"
            )  # fmt: skip
            claims.append(
                (meaning, f"{first} − {second}", benchmark, found.items,
                 found.difference.times(100), f"{found.p_value:.2g}", sure)
            )  # fmt: skip
    return [
        Table("Accuracy by arm, % (mean over seeds and tasks)", head, tuple(rows)),
        Table(
            "Claims, points of accuracy",
            ("claim", "difference", "benchmark", "items", "points", "p", "verdict"),
            tuple(claims),
        ),
    ]


def figure(path: Path) -> None:
    """Every arm's accuracy with its interval, one panel a benchmark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = {name: grades(samples) for name, samples in samples_of_arms().items()}
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
        panel.set_title(benchmark)
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
    for table in tables():
        print(table.markdown(), end="\n\n")
    results = [json.loads(file.read_text()) for file in sorted(RUNS.glob("*/*/results.json"))]
    seconds = sum(one["seconds"] for one in results)
    print(f"{len(results)} stages trained in {seconds / 60:.0f} minutes")
    figure(RUNS / "arms.png")
    print(RUNS / "arms.png")


if __name__ == "__main__":
    main()
