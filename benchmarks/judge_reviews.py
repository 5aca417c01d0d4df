"""Published reviews of GPT-4: their sums, and how many of their scores the parser reads.

    ORCA_SHARED_DATA=DIR python benchmarks/judge_reviews.py

DIR holds vicuna/2023_eval of FastChat; the first model of a review is the reference.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from orca.evaluation.files import json_lines_of
from orca.evaluation.judge import template_category
from orca.evaluation.open_ended import Vicuna
from orca.evaluation.reviews import FASTCHAT, parse_review, published_scores
from orca.evaluation.statistics import macro_ratio
from orca.evaluation.table import Cell, Table


def main() -> None:
    shared = os.environ.get("ORCA_SHARED_DATA")
    categories = {item.id: template_category(item) for item in Vicuna(shared).items()}
    directory = Path(str(shared)) / "vicuna" / "2023_eval" / "review"
    rows: list[tuple[Cell, ...]] = []
    for file in sorted(directory.rglob("*.jsonl")):
        stored = published_scores(file)
        read = [
            parse_review(row["text"], categories[f"vicuna/{row['question_id']}"])
            for _, row in json_lines_of(file, FASTCHAT)
        ]
        scores = np.array(stored)
        reference, candidate = (float(total) for total in scores.sum(axis=0))
        rows.append(
            (
                str(file.relative_to(directory).with_suffix("")).replace("/review_", "/"),
                reference,
                candidate,
                f"{100 * candidate / reference:.2f}",
                macro_ratio([scores[:, ::-1]]).times(100),
                sum(pair is None for pair in read),
                sum(pair != one for pair, one in zip(read, stored, strict=True)),
            )
        )
    head = ("reviews", "first", "second", "%", "% [95 %]", "not read", "read otherwise than stored")
    print(Table("Reviews of GPT-4, sums of the stored scores", head, tuple(rows)).markdown())


if __name__ == "__main__":
    main()
