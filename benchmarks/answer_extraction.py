"""How the two ways to read an answer do on real outputs.

    ORCA_SHARED_DATA=… python benchmarks/answer_extraction.py [--show 50]

The outputs are those of code-davinci-002 on BBH's 5,511 multiple-choice items, with and without a
chain of thought. ``--show`` prints the ends of so many outputs whose stated answer is not the one
by the paper's rule, and of as many that state none, for reading.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

from orca.evaluation.bbh import BBH, TASKS
from orca.evaluation.extraction import first_capital, stated_label
from orca.evaluation.item import Item

Read = tuple[Item, str, str, str]


def read(data: Path, mode: str) -> list[Read]:
    """(item, output, label by the paper's rule, stated label) of each output."""
    items = {item.id: item for item in BBH(str(data)).items()}
    found = []
    for task in TASKS:
        file = data / "bbh" / "codex_outputs" / mode / f"{task}.jsonl"
        for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
            row = json.loads(line)
            item, text = items[f"bbh/{task}/{row['example_index']}"], row["prediction"]
            stated = stated_label(text, item.labels, item.options)
            found.append((item, text, first_capital(text, item.labels), stated))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--show", type=int, default=0, help="outputs of either kind to print")
    show = parser.parse_args().show
    shared = os.environ.get("ORCA_SHARED_DATA")
    if not shared:
        raise SystemExit("ORCA_SHARED_DATA must name the directory that holds bbh/codex_outputs")
    data = Path(shared)
    differ: list[Read] = []
    unstated: list[Read] = []
    print("| outputs | rule | right | wrong | no answer |")
    print("| --- | --- | --- | --- | --- |")
    for mode in ("cot", "direct"):
        rows = read(data, mode)
        for column, rule in ((2, "first capital"), (3, "stated")):
            right = sum(row[column] in row[0].gold for row in rows)
            none = sum(row[column] == "" for row in rows)
            print(f"| {mode} | {rule} | {right} | {len(rows) - right - none} | {none} |")
        differ += [row for row in rows if row[3] not in ("", row[2])]
        unstated += [row for row in rows if row[3] == ""]
    print(f"{len(differ)} state another answer than the rule reads, {len(unstated)} state none")
    draw = random.Random(0)
    for item, text, first, stated in [*draw.sample(differ, show), *draw.sample(unstated, show)]:
        print(f"{item.id}\t{text[-80:]!r}\tfirst capital: {first}\tstated: {stated}")


if __name__ == "__main__":
    main()
