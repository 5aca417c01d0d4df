"""Benchmark items that share text with training traces, by the rule that query sets are checked by.

An item is found by 13 words in a row (:class:`orca.mixture.contamination.Contamination` has the
rule and its limits). Two things are searched for, without the words of the prompt's form: the
question after its passage, and the question with its options, for a statement may be an option (as
in BBH's snarks). A short question under a passage is no evidence by itself: "which of the following
must be true" is everywhere. Texts are read in blocks, so memory depends on the benchmarks alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from orca.evaluation.item import NEVER_SHOWN, Item
from orca.evaluation.table import Table
from orca.mixture.contamination import BenchmarkIndex, Contamination
from orca.mixture.contamination import Item as Evidence
from orca.traces import BadRow, TraceSource

_CHARACTERS_AT_ONCE = 1_000_000
MOST_LISTED = 50


@dataclass(frozen=True, slots=True)
class ItemOverlap:
    """An item that is, in part or whole, in the texts.

    Attributes:
        texts: number of texts that share words with it.
        words: shared with the text ``where``, the first of those that share the most.
        quote: the first of these words; empty for ToxiGen, whose sentences are not shown.
    """

    item: str
    benchmark: str
    task: str
    texts: int
    words: int
    where: str
    quote: str


@dataclass(frozen=True)
class OverlapReport:
    """What of the benchmarks is in a set of texts.

    Attributes:
        texts: number of texts that were read.
        items: number of items by (benchmark, task).
        without_evidence: ids of items that nothing can be found by: too short, or with words that
            ten or more items of their task have.
        overlaps: in the order of benchmarks, tasks and items.
    """

    texts: int
    items: dict[tuple[str, str], int]
    without_evidence: tuple[str, ...]
    overlaps: tuple[ItemOverlap, ...]

    def found(self) -> dict[tuple[str, str], int]:
        """Number of items that share text, by (benchmark, task)."""
        counts = Counter((one.benchmark, one.task) for one in self.overlaps)
        return {key: counts[key] for key in self.items}

    def table(self) -> Table:
        """Tasks with their items and those that share text."""
        rows = tuple(
            (*key, self.items[key], count, round(100 * count / self.items[key], 1))
            for key, count in self.found().items()
        )
        note = (
            f"{self.texts:,} texts were read. {len(self.without_evidence):,} items cannot be "
            "found: they are too short, or their words are common in their task."
        )
        head = ("benchmark", "task", "items", "with text in the traces", "%")
        return Table("Overlap with the training traces", head, rows, (note,))

    def item_table(self) -> Table:
        """The items that share most words; texts are quoted nowhere."""
        first = sorted(self.overlaps, key=lambda one: (-one.words, one.item))[:MOST_LISTED]
        rows = tuple((one.item, one.words, one.texts, one.where) for one in first)
        notes: tuple[str, ...] = ()
        if len(rows) < len(self.overlaps):
            notes = (f"The first {len(rows)} of {len(self.overlaps):,}; all are in overlap.json.",)
        head = ("item", "words shared", "texts", "for example")
        return Table("Items with text in the training traces", head, rows, notes)

    def save(self, file: Path) -> None:
        """Every item that shares text, as JSON."""
        rows = [dataclasses.asdict(one) for one in self.overlaps]
        file.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def overlap(items: Sequence[Item], texts: Iterable[tuple[str, str]]) -> OverlapReport:
    """Which items share text with ``texts``.

    Args:
        items: whole benchmarks, even where a slice is evaluated: what ten items of a task have in
            common is no evidence, which a slice would not show.
        texts: (where it is, text), as :func:`trace_texts` yields them.
    """
    items = sorted(items, key=lambda item: (item.benchmark, item.task))
    evidence = _evidence(items)
    index = BenchmarkIndex(
        evidence, Contamination.ngram, Contamination.min_words, Contamination.boilerplate
    )
    found: dict[int, ItemOverlap] = {}
    num_texts = 0
    for block in _blocks(texts):
        num_texts += len(block)
        shared: dict[tuple[int, int], tuple[int, str]] = {}  # (row, item): words, quote
        for one in index.overlaps(pa.array([text for _, text in block], pa.string())):
            key = one.row, evidence[one.item].index
            shared[key] = max(shared.get(key, (0, "")), (one.words, one.quote))
        for (row, number), (words, quote) in shared.items():
            item = items[number]
            new = ItemOverlap(
                item.id,
                item.benchmark,
                item.task,
                texts=1,
                words=words,
                where=block[row][0],
                quote="" if item.benchmark in NEVER_SHOWN else quote,
            )
            found[number] = _merged(found[number], new) if number in found else new
    searched = Counter(one.index for one in evidence)
    hidden = Counter(one.index for one in index.without_evidence)
    return OverlapReport(
        num_texts,
        dict(Counter((item.benchmark, item.task) for item in items)),
        tuple(
            items[number].id for number in sorted(searched) if hidden[number] == searched[number]
        ),
        tuple(found[number] for number in sorted(found)),
    )


def trace_texts(source: TraceSource) -> Iterator[tuple[str, str]]:
    """Query and response of every trace; rows that are no trace are passed over, as in training."""
    for number in range(len(source)):
        try:
            trace = source[number]
        except BadRow:
            continue
        yield f"query of {trace.id}", trace.query
        yield f"response of {trace.id}", trace.response


def parts(prompt: str) -> tuple[str, str, str]:
    """Context, question and options of a multiple-choice prompt; another is all question."""
    asked, form, _ = prompt.rpartition("\nA: Among ")
    if not form:
        return "", prompt, ""
    context, _, asked = asked.rpartition("Q: ")
    question, _, options = asked.rpartition("Answer Choices: ")
    return context, question, options


def _evidence(items: Sequence[Item]) -> list[Evidence]:
    """Texts to be searched for; ``index`` is the number of the item.

    Questions with and without options are tasks of their own: an item must not count twice among
    those that have the same words. A context of many items is an instruction and no passage.
    """
    apart = [parts(item.prompt) for item in items]
    tasks = [f"{item.benchmark}/{item.task}" for item in items]
    shared = Counter((task, context) for task, (context, _, _) in zip(tasks, apart, strict=True))
    evidence = []
    for number, (task, (context, question, options)) in enumerate(zip(tasks, apart, strict=True)):
        passage = context if shared[task, context] < Contamination.boilerplate else ""
        evidence.append(Evidence(task, number, f"{passage} {question}"))
        if options:
            evidence.append(Evidence(f"{task} options", number, f"{question} {options}"))
    return sorted(evidence, key=lambda one: one.task)


def _blocks(texts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    block: list[tuple[str, str]] = []
    size = 0
    for where, text in texts:
        block.append((where, text))
        size += len(text)
        if size >= _CHARACTERS_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def _merged(known: ItemOverlap, new: ItemOverlap) -> ItemOverlap:
    return replace(new if new.words > known.words else known, texts=known.texts + 1)
