"""A judge's review of two answers: reading its scores, keeping it, and reading published ones.

A review has scores by one of two rules:

- The first line is two numbers, as FastChat reads reviews. Its instructions for general and coding
  questions ask for that.
- A math review solves the problem first, and FastChat's rule reads none of the 39 published ones.
  There the scores are the one pair that the review states: a tuple after "tuple", "scores" or
  "Output:" or alone on the last line; a line "Assistant 1: 8" with its counterpart, below a line
  that speaks of scores or as "8/10"; or "Assistant 1 a score of 8 and Assistant 2 a score of 3".
  Where two statements differ, the review counts as unparsed.

Scores are from 0 to 10: the templates ask for 1 to 10, and GPT-4 gave 0 to empty answers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from orca.errors import UserError
from orca.evaluation.files import json_lines_of, texts
from orca.paths import replacing

HIGHEST = 10.0
Pair = tuple[float, float]
Order = Literal["reference_first", "candidate_first"]

_NUMBER = r"(\d+(?:\.\d+)?)"
_TUPLE = rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)"
_NAMED_TUPLE = re.compile(
    rf"(?:\btuple\b|\bscores?\b|\boutput:|```python\s)[^().]{{0,60}}{_TUPLE}", re.I
)
_BARE_TUPLE = re.compile(rf"[*`\s]*{_TUPLE}[*`\s]*")
_LINE = r"[*#\s-]*Assistant {}[*]*:[*]*\s*(\d+(?:\.\d+)?)(\s*/\s*10)?[*]*(?=\s*(?:\(|- |,|;|\.?$))"
_LINES = tuple(re.compile(_LINE.format(which)) for which in (1, 2))
_SENTENCE = re.compile(
    rf"Assistant 1 (?:gets )?(?:a )?score of {_NUMBER}[^.\n]{{0,20}}"
    rf"Assistant 2 (?:gets )?(?:a )?score of {_NUMBER}(?!\.?\d)"
)


@dataclass(frozen=True, slots=True)
class Review:
    """One review: a row of the records.

    Attributes:
        draw: of the candidate's answer.
        order: whose answer the judge read first.
        prompt: the whole user message to the judge.
        finish_reason: as of an answer; ``failed``: no review came.
        candidate, reference: scores; None: unparsed.
        judge: model that was asked.
    """

    item: str
    benchmark: str
    group: str
    draw: int
    system_message: int
    order: Order
    prompt: str
    text: str
    finish_reason: str
    candidate: float | None
    reference: float | None
    judge: str
    error: str = ""


SCHEMA = pa.schema(
    {
        "item": pa.string(),
        "benchmark": pa.string(),
        "group": pa.string(),
        "draw": pa.int32(),
        "system_message": pa.int32(),
        "order": pa.string(),
        "prompt": pa.string(),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "candidate": pa.float64(),
        "reference": pa.float64(),
        "judge": pa.string(),
        "error": pa.string(),
    }
)


def parse_review(text: str, category: str, cut: bool = False) -> Pair | None:
    """Scores of the first and the second answer, or None.

    Args:
        category: of the template: general, coding or math.
        cut: the review ends where tokens ran out, so its last number may not be whole.
    """
    text = text.strip()
    first, *rest = text.split("\n")
    words = first.replace(",", " ").split()
    if len(words) == 2 and (rest or not cut) and all(map(_is_number, words)):
        return _in_range(float(words[0]), float(words[1]))
    if category != "math" or cut:
        return None
    stated = set(_stated(text))
    return _in_range(*stated.pop()) if len(stated) == 1 else None


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", word, re.ASCII) is not None


def _in_range(first: float, second: float) -> Pair | None:
    return (first, second) if max(first, second) <= HIGHEST else None


def _stated(text: str) -> Iterator[Pair]:
    """Every pair of scores that a review states."""
    for found in (*_NAMED_TUPLE.finditer(text), *_SENTENCE.finditer(text)):
        yield float(found[1]), float(found[2])
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and (found_last := _BARE_TUPLE.fullmatch(lines[-1])):
        yield float(found_last[1]), float(found_last[2])
    for before, one, other in zip(lines, lines[1:], lines[2:], strict=False):
        first, second = _LINES[0].match(one), _LINES[1].match(other)
        if first and second and (first[2] or re.search(r"\bscores?\b", before, re.I)):
            yield float(first[1]), float(second[1])


def write_reviews(reviews: Iterable[Review], file: Path) -> None:
    """One Parquet file; whole, or as it was before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dataclasses.asdict(one) for one in reviews], SCHEMA)
    with replacing(file) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_reviews(file: Path) -> list[Review]:
    """What :func:`write_reviews` wrote."""
    return [Review(**row) for row in pq.read_table(file).to_pylist()]


def published_scores(file: Path) -> list[Pair]:
    """Stored scores of the first and second answers of a FastChat review file.

    Raises:
        UserError: a row has no two scores, or FastChat's mark of an unparsed review.
    """
    pairs = []
    for row, value in json_lines_of(file, FASTCHAT):
        score = value.get("score") if isinstance(value, dict) else None
        if not isinstance(score, list) or len(score) != 2 or min(score) < 0:
            raise UserError(f"{file}, row {row}: 'score' is no pair of scores ({score!r:.40})")
        pairs.append((float(score[0]), float(score[1])))
    return pairs


def published_answers(file: Path) -> dict[str, str]:
    """Answers of a FastChat answer file by item of the Vicuna set; raises ``UserError``."""
    answers = {}
    for row, value in json_lines_of(file, FASTCHAT):
        where = f"{file}, row {row}"
        (text,) = texts(value, ("text",), where)
        if type(value.get("question_id")) is not int:
            raise UserError(f"{where}: no whole number in 'question_id'; not FastChat's answers?")
        answers[f"vicuna/{value['question_id']}"] = text
    return answers


FASTCHAT = "https://github.com/lm-sys/FastChat (fastchat/eval/table before its llm_judge)"
