"""Open-ended answers, scored by a judge beside those of a reference (section 5 of the paper).

FastChat's judge of 2023: its templates for general, coding and math questions, temperature 0.2, at
most 1,024 tokens. The paper shows the reference's answer first and the candidate's second, which
favours the reference: it measured 84.87 instead of 77.1 for Vicuna-13B on WizardLM's prompts with
the candidate first (footnote 18). With ``both_orders`` each pair is judged both ways and an item's
scores are the means. What is reported is 100 · the candidate's total / the reference's total.

An item counts with the draws all of whose reviews have scores; the other reviews are counted.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orca.errors import UserError
from orca.evaluation.engine import Prompt
from orca.evaluation.item import Item, Sample
from orca.evaluation.open_ended_tables import Judged
from orca.evaluation.openai_engine import OpenAIEngine
from orca.evaluation.records import read_samples
from orca.evaluation.reviews import (
    Order,
    Review,
    parse_review,
    published_answers,
    write_reviews,
)
from orca.evaluation.statistics import macro_ratio
from orca.evaluation.table import Cell, Table

EMPTY_MESSAGE = 1
"""Number in Table 2 of the paper's own system message for evaluation."""


@cache
def templates() -> dict[str, Any]:
    """FastChat's prompts: ``system``, ``template``, and ``instructions`` by category."""
    file = Path(__file__).with_name("judge_templates.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def template_category(item: Item) -> str:
    """``coding`` and ``math`` questions have their own instructions, as in FastChat.

    WizardLM's skills ("Math", "Code Generation") are no categories of FastChat's: general.
    """
    return item.group if item.group in templates()["instructions"] else "general"


def judge_prompt(item: Item, first: str, second: str) -> str:
    """The user message; ``first`` is shown as Assistant 1's answer."""
    known = templates()
    text: str = known["template"].format(
        question=item.prompt,
        answer_1=first,
        answer_2=second,
        prompt=known["instructions"][template_category(item)],
    )
    return text


def read_references(path: Path, items: Sequence[Item]) -> dict[str, str]:
    """Reference answers by item: of a run's directory, or of a FastChat answer file.

    Of a run with several draws, draw 0; of one with several system messages, the empty message.

    Raises:
        UserError: an item has no answer there.
    """
    if path.is_dir():
        samples = [one for one in read_samples(path) if one.finish_reason != "failed"]
        messages = {one.system_message for one in samples}
        if len(messages) > 1 and EMPTY_MESSAGE not in messages:
            raise UserError(
                f"judge.reference={path} was asked under system messages {sorted(messages)}: take "
                "a run under one of them"
            )
        asked = {item.id: item.prompt for item in items}
        other = [one.item for one in samples if asked.get(one.item, one.prompt) != one.prompt]
        if other:
            raise UserError(
                f"judge.reference={path} answered another question as {other[0]}: its benchmark "
                "files were of another version. Run evaluate.py for it with today's"
            )
        message = EMPTY_MESSAGE if EMPTY_MESSAGE in messages else min(messages, default=0)
        answers = {
            one.item: one.text for one in samples if one.draw == 0 and one.system_message == message
        }
    elif path.is_file():
        answers = published_answers(path)
    else:
        raise UserError(
            f"judge.reference={path}: neither a directory of a run nor a FastChat answer file"
        )
    missing = [item.id for item in items if item.id not in answers]
    if missing:
        raise UserError(
            f"judge.reference={path} has no answer to {len(missing):,} of {len(items):,} items, as "
            f"{missing[0]}: run evaluate.py for it with the same benchmark= and fraction="
        )
    return answers


def judge(
    engine: OpenAIEngine,
    samples: Sequence[Sample],
    references: Mapping[str, str],
    items: Sequence[Item],
    both_orders: bool,
    out: Path,
) -> list[Review]:
    """A review of every answer; they are written to ``out``, a Parquet file.

    What was paid for is in the engine's ledger, so a second call asks only what failed. A review
    belongs to the very answers that were shown and to the judge's model: with another answer or
    model it is asked anew.

    Args:
        samples: the candidate's; failed ones have no answer to be judged.
        references: answers by item.
        both_orders: also with the candidate's answer first.

    Raises:
        UserError: no review came at all.
    """
    by_id = {item.id: item for item in items}
    orders: list[Order] = ["reference_first"]
    orders += ["candidate_first"] if both_orders else []
    asked: dict[str, tuple[Sample, Order, str]] = {}
    for sample in samples:
        if sample.item not in by_id or sample.finish_reason == "failed":
            continue
        for order in orders:
            answers = [references[sample.item], sample.text]
            first, second = answers if order == "reference_first" else answers[::-1]
            prompt = judge_prompt(by_id[sample.item], first, second)
            asked[_key(engine, sample, order, prompt)] = sample, order, prompt
    if not asked:
        raise UserError("there is no answer to be judged: every request for one failed")
    reviews = _reviews(engine, asked, by_id)
    write_reviews(reviews, out)
    failed = [review for review in reviews if review.finish_reason == "failed"]
    if len(failed) == len(reviews):
        raise UserError(f"every request to the judge failed, the first with: {failed[0].error}")
    if failed:
        print(f"{len(failed):,} reviews did not come; the same command asks again", file=sys.stderr)
    return reviews


def _key(engine: OpenAIEngine, sample: Sample, order: Order, prompt: str) -> str:
    shown = json.dumps([engine.describe()["models"], templates()["system"], prompt])
    digest = hashlib.sha256(shown.encode()).hexdigest()[:16]
    return f"{sample.item}#{sample.system_message}#{sample.draw}#{order}#{digest}"


def _reviews(
    engine: OpenAIEngine, asked: Mapping[str, tuple[Sample, Order, str]], items: Mapping[str, Item]
) -> list[Review]:
    """In the order of ``asked``."""
    known = templates()
    prompts = [Prompt(key, known["system"], prompt) for key, (_, _, prompt) in asked.items()]
    judge_model = ", ".join(engine.describe()["models"])
    found: dict[str, Review] = {}
    for output in engine.generate(prompts, known["temperature"], known["max_tokens"]):
        sample, order, prompt = asked[output.key]
        item = items[sample.item]
        pair = None
        if output.finish_reason in ("stop", "length"):
            cut = output.finish_reason == "length"
            pair = parse_review(output.text, template_category(item), cut)
        first, second = pair or (None, None)
        candidate, reference = (second, first) if order == "reference_first" else (first, second)
        found[output.key] = Review(
            item=item.id,
            benchmark=item.benchmark,
            group=item.group,
            draw=sample.draw,
            system_message=sample.system_message,
            order=order,
            prompt=prompt,
            text=output.text,
            finish_reason=output.finish_reason,
            candidate=candidate,
            reference=reference,
            judge=judge_model,
            error=output.error,
        )
    return [found[key] for key in asked]


def judged(reviews: Sequence[Review], reference: str) -> list[Judged]:
    """The scores of each benchmark, of one system message.

    Args:
        reference: name of the reference; "ChatGPT" and "GPT-4" are those of Table 7.

    Raises:
        UserError: no item of a benchmark has scores.
    """
    sets: dict[str, list[Review]] = defaultdict(list)
    for review in reviews:
        sets[review.benchmark].append(review)
    results = []
    for benchmark, own in sets.items():
        result = _judged(benchmark, reference, own)
        if not len(result.scores):
            raise UserError(
                f"no item of {benchmark} has scores: {result.unparsed:,} of {len(own):,} reviews "
                f"could not be read, {result.failed:,} did not come"
            )
        results.append(result)
    return results


def _judged(benchmark: str, reference: str, reviews: Sequence[Review]) -> Judged:
    pairs: dict[tuple[str, int], list[tuple[float | None, float | None]]] = defaultdict(list)
    for one in reviews:
        pairs[one.item, one.draw].append((one.candidate, one.reference))
    draws: dict[str, list[np.ndarray]] = defaultdict(list)
    for (item, _), own in pairs.items():
        if all(None not in pair for pair in own):
            draws[item].append(np.mean(np.array(own, dtype=np.float64), axis=0))
    failed = sum(one.finish_reason == "failed" for one in reviews)
    return Judged(
        benchmark,
        reference,
        np.array([np.mean(own, axis=0) for own in draws.values()]).reshape(-1, 2),
        unparsed=sum(one.candidate is None for one in reviews) - failed,
        failed=failed,
    )


def review_table(head: str, reference: str, reviews: Sequence[Review]) -> Table:
    """One benchmark's totals by category, with the reviews that do not count.

    Sets whose categories have hardly more than one prompt (Awesome) have only the last row.

    Args:
        head: of the run's column.
    """
    (benchmark,) = {one.benchmark for one in reviews}
    groups: dict[str, list[Review]] = defaultdict(list)
    for one in reviews:
        groups[one.group].append(one)
    several = 3 * len(groups) <= 2 * len({one.item for one in reviews})
    rows = [_row(name, _judged(benchmark, reference, own)) for name, own in groups.items()]
    rows = [*(rows if several else []), _row("all", _judged(benchmark, reference, list(reviews)))]
    columns = ("category", "items", "total", f"{reference}'s total", f"% of {reference}'s")
    notes = (
        f"Judge: {reviews[0].judge}. Items count when all their reviews have two scores; "
        "unparsed and missing reviews are counted and score nothing.",
    )
    return Table(
        f"{head} beside {reference} on {benchmark}",
        (*columns, "unparsed reviews", "reviews that did not come"),
        tuple(rows),
        notes,
    )


def _row(name: str, one: Judged) -> tuple[Cell, ...]:
    candidate, reference = (float(total) for total in one.scores.sum(axis=0))
    ratio = macro_ratio([one.scores]).times(100) if reference else None
    return (
        name,
        len(one.scores),
        round(candidate, 2),
        round(reference, 2),
        ratio,
        one.unparsed,
        one.failed,
    )
