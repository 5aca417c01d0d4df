"""Queries that share text with the benchmarks of Orca's evaluation.

The rule is GPT-3's (arXiv 2005.14165, appendix C): a text is contaminated when it has 13 words in
a row with a benchmark item. Every word sequence of a batch is hashed in numpy and looked up in a
table of the benchmarks' sequences; what the table lets through is compared word for word.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orca.errors import UserError
from orca.mixture.hygiene import Finding

_ROWS_AT_ONCE = 1_000  # about 1 MB of hashes: stays in the processor's cache
_TABLE_BITS = 24
_SHIFT = np.uint64(64 - _TABLE_BITS)


@dataclass(frozen=True, slots=True)
class Item:
    """A benchmark item: ``bbh/snarks``, 0-based index in its file, the text that must not leak."""

    task: str
    index: int
    text: str

    def __str__(self) -> str:
        return f"{self.task} #{self.index}"


def _bbh(file: Path) -> list[str]:
    content = json.loads(file.read_text(encoding="utf-8"))
    return [example["input"] for example in content["examples"]]


def _agieval(file: Path) -> list[str]:
    # split("\n"), not splitlines(): U+2028 may stand inside a JSON string
    rows = map(json.loads, file.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    return [(row["passage"] or "") + " " + row["question"] for row in rows]


def _truthfulqa(file: Path) -> list[str]:
    if file.suffix == ".json":
        return [row["question"] for row in json.loads(file.read_text(encoding="utf-8"))]
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return [row["Question"] for row in csv.DictReader(stream)]


_READERS: dict[str, tuple[Sequence[str], Callable[[Path], list[str]]]] = {
    "bbh": (("bbh/*.json",), _bbh),
    "agieval": (("agieval/*.jsonl",), _agieval),
    "truthfulqa": (("truthfulqa/**/TruthfulQA.csv", "truthfulqa/**/mc_task.json"), _truthfulqa),
}


def benchmark_files(benchmarks: Iterable[str], root: str | Path | None) -> list[tuple[str, Path]]:
    """(benchmark, file) of every file of the benchmarks, in the order of the files' names.

    Raises:
        UserError: no directory, an unknown benchmark, or one without files.
    """
    if root is None:
        raise UserError(
            "the contamination check needs the benchmarks: set the variable ORCA_SHARED_DATA or "
            "paths.benchmarks to a directory with bbh/, agieval/ and truthfulqa/, or leave the "
            "check out with ~hygiene.contamination"
        )
    root = Path(root).expanduser()
    found: list[tuple[str, Path]] = []
    for benchmark in benchmarks:
        if benchmark not in _READERS:
            known = ", ".join(_READERS)
            raise UserError(f"the contamination check knows no benchmark {benchmark!r}: {known}")
        patterns, _ = _READERS[benchmark]
        files = sorted(file for pattern in patterns for file in root.glob(pattern))
        if not files:
            raise UserError(
                f"no file matches {root / patterns[0]}: put the files of {benchmark} there, set "
                f"the contamination check's root, or take {benchmark} out of its benchmarks"
            )
        found += [(benchmark, file) for file in files]
    return found


def read_items(benchmarks: Iterable[str], root: str | Path) -> list[Item]:
    """The items of the benchmarks' public files, in the order of the files' names.

    ``bbh/<task>.json`` of suzgunmirac/BIG-Bench-Hard (the inputs); ``agieval/<set>.jsonl`` of
    ruixiangcui/AGIEval (passage and question, without the options); ``TruthfulQA.csv`` and
    ``mc_task.json`` of sylinrl/TruthfulQA, any versions below ``truthfulqa`` (the questions).

    Raises:
        UserError: as :func:`benchmark_files`, or a file of another form.
    """
    items: list[Item] = []
    for benchmark, file in benchmark_files(benchmarks, root):
        _, read = _READERS[benchmark]
        task = file.relative_to(Path(root).expanduser()).with_suffix("").as_posix()
        try:
            texts = read(file)
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError("no items, or an item without text")
            items += [Item(task, index, text) for index, text in enumerate(texts)]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise UserError(f"{file} is not {benchmark} as published: {error!r}") from error
    return items


@dataclass(frozen=True)
class Contamination:
    """Queries with ``ngram`` words in a row of a benchmark item, or with a whole short item.

    Words are runs of letters and digits, in lower case. An item of fewer than ``ngram`` words
    counts when all its words occur in a row; one of fewer than ``min_words`` never does: with
    4, ``What do you do`` of TruthfulQA alone is found in 21 of 45,000 NIV2 and CoT questions.
    The price of 6 is that 60 of TruthfulQA's 790 questions (24 with 5) cannot be found.

    A sequence that ``boilerplate`` or more items of one task have is an instruction, not
    evidence, and is ignored for that task. A reading passage is evidence, and up to 8 questions
    of AGIEval share one; 10 spares them and ignores 1,597 sequences of BBH and AGIEval. All 250
    items of dyck_languages, brackets under one instruction, are left without evidence.

    Found in real data: none of 4,480 T0 prompts, 3 of 11,508 instances of NIV2 (WinoBias
    sentences that BBH's disambiguation_qa also has), 2 of 33,443 CoT questions (AQuA-RAT's
    training questions that paraphrase test questions of AGIEval); all five are real. What the
    rule cannot see is an item in other words: of BBH's prompts in the layout of another project
    80 % are found, and 3 of 250 for sports_understanding, whose own text is about five words.

    About 35 microseconds for a query of 1,000 characters on one core: 3 minutes for 5 million.

    ``find`` reads id, query and, where there are some, targets: other texts can be checked too.

    Args:
        root: directory with the folders of the benchmarks (:func:`read_items`).
        min_words: an item of fewer words never counts.
        boilerplate: a sequence that so many items of one task have is no evidence.

    Raises:
        UserError: as :func:`benchmark_files`; at the first ``find`` as :func:`read_items`.
    """

    root: str | None
    benchmarks: Sequence[str] = ("bbh", "agieval", "truthfulqa")
    ngram: int = 13
    min_words: int = 6
    boilerplate: int = 10
    remove: bool = True
    name: str = "contamination"

    def __post_init__(self) -> None:
        if not 1 <= self.min_words <= self.ngram:
            raise UserError(
                f"check {self.name!r}: min_words {self.min_words} is not between 1 and "
                f"ngram {self.ngram}"
            )
        if self.boilerplate < 2:
            raise UserError(
                f"check {self.name!r}: boilerplate {self.boilerplate} would ignore all text; "
                "it is at least 2"
            )
        benchmark_files(self.benchmarks, self.root)

    @cached_property
    def index(self) -> BenchmarkIndex:
        """The benchmarks' word sequences; reads the files when it is first asked for."""
        assert self.root is not None
        items = read_items(self.benchmarks, self.root)
        return BenchmarkIndex(items, self.ngram, self.min_words, self.boilerplate)

    def find(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Finding]:
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield from self._find(batch.slice(start, _ROWS_AT_ONCE))

    def _find(self, rows: pa.RecordBatch) -> Iterator[Finding]:
        ids = rows.column("id").to_pylist()
        found = {row: detail for row, detail in self.index.matches(rows.column("query"))}
        if "targets" in rows.schema.names:  # an inverted task has the question in its target
            targets = rows.column("targets")
            parents = pc.list_parent_indices(targets).to_pylist()
            for place, detail in self.index.matches(pc.list_flatten(targets)):
                found.setdefault(parents[place], f"gold target: {detail}")
        for row in sorted(found):
            yield Finding(ids[row], found[row])


@dataclass(frozen=True, slots=True)
class _Places:
    """Where word sequences of one length start in the items, sorted by hash, then item."""

    hashes: np.ndarray
    items: np.ndarray
    starts: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> _Places:
        return _Places(self.hashes[chosen], self.items[chosen], self.starts[chosen])


@dataclass(frozen=True, slots=True)
class Overlap:
    """A text and a benchmark item that share words.

    Attributes:
        row: of the text; ``item``: number of the item.
        words: of the text that are shared; ``quote``: the first of them.
    """

    row: int
    item: int
    words: int
    quote: str


class BenchmarkIndex:
    """Where every word sequence of the benchmarks occurs, for texts to be compared with.

    Args:
        items: items of one task stand together.

    Attributes:
        ignored: number of different sequences that are boilerplate, added over the tasks.
        without_evidence: items that nothing can be found by: too short, or all boilerplate.
    """

    def __init__(self, items: Sequence[Item], ngram: int, min_words: int, boilerplate: int) -> None:
        self._items = items
        self._ngram = ngram
        self._lengths = range(min_words, ngram + 1)
        words = _words(pa.array([item.text for item in items], pa.string()))
        self._words: list[list[str]] = words.to_pylist()
        self._vocabulary = pc.unique(words.flatten())
        # An odd factor for each place makes the sum over a sequence depend on the words' order.
        self._factors = np.random.default_rng(0).integers(2**63, size=ngram, dtype=np.uint64)
        self._factors = 2 * self._factors + 1
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._places: dict[int, _Places] = {}
        self.ignored = 0
        tasks = np.unique([item.task for item in items], return_inverse=True)[1]
        seen = np.zeros(len(items), bool)
        for length, hashes in self._hashes(words):
            places = self._sequences(words, length, hashes)
            common, count = _boilerplate(places, tasks, boilerplate)
            self.ignored += count
            places = self._places[length] = places[~common]
            self._table[places.hashes >> _SHIFT] = True
            seen[places.items] = True
        self.without_evidence = [items[index] for index in np.flatnonzero(~seen).tolist()]

    def matches(self, texts: pa.Array) -> Iterator[tuple[int, str]]:
        """(row, evidence) of every text that shares words with an item, in the order of rows.

        The evidence names the item with the most words, and of those the first.
        """
        for row, group in groupby(self.overlaps(texts), key=lambda overlap: overlap.row):
            most = max(group, key=lambda overlap: (overlap.words, -overlap.item))
            yield row, f"{most.words} words shared with {self._items[most.item]}: '{most.quote}'"

    def overlaps(self, texts: pa.Array) -> Iterator[Overlap]:
        """Every text and item that share words, in the order of rows."""
        words = _words(texts)
        offsets = words.offsets.to_numpy()
        flat = words.flatten()
        shared: dict[int, dict[int, set[int]]] = {}  # row: item: where its words are in flat
        for length, hashes in self._hashes(words):
            places = self._places[length]
            starts = np.flatnonzero(self._table[hashes >> _SHIFT])
            first = np.searchsorted(places.hashes, hashes[starts], "left")
            last = np.searchsorted(places.hashes, hashes[starts], "right")
            rows = np.searchsorted(offsets, starts, "right") - 1
            known = (first < last) & (starts + length <= offsets[rows + 1])
            hits = np.stack([rows, starts, first, last], axis=1)[known]
            for row, start, one, end in hits.tolist():
                sequence = flat[start : start + length].to_pylist()
                for item, at in zip(places.items[one:end], places.starts[one:end], strict=True):
                    if self._words[item][at : at + length] == sequence:
                        positions = shared.setdefault(row, {}).setdefault(int(item), set())
                        positions.update(range(start, start + length))
        for row in sorted(shared):
            for item, positions in shared[row].items():
                start, length = min(positions), min(len(self._words[item]), self._ngram)
                quote = " ".join(flat[start : start + length].to_pylist())
                yield Overlap(row, item, len(positions), quote)

    def _hashes(self, words: pa.ListArray) -> Iterator[tuple[int, np.ndarray]]:
        """For each length the hash of the sequence that starts at each word.

        Sequences that go beyond their text are among them; the array is reused.
        """
        numbers = pc.fill_null(pc.index_in(words.flatten(), value_set=self._vocabulary), -1)
        known = (numbers.to_numpy() + 1).astype(np.uint64)
        total = np.zeros_like(known)
        for place, factor in enumerate(self._factors):
            total[: max(0, len(total) - place)] += known[place:] * factor
            if place + 1 in self._lengths:
                yield place + 1, total

    def _sequences(self, words: pa.ListArray, length: int, hashes: np.ndarray) -> _Places:
        """Every sequence of ``ngram`` words; of fewer words, the items that have just these."""
        offsets = words.offsets.to_numpy().astype(np.int64)
        items = pc.list_parent_indices(words).to_numpy()
        starts = np.arange(len(items)) - offsets[items]
        lengths = np.diff(offsets)[items]
        if length == self._ngram:
            chosen = np.flatnonzero(starts + length <= lengths)
        else:
            chosen = np.flatnonzero((starts == 0) & (lengths == length))
        chosen = chosen[np.lexsort((items[chosen], hashes[chosen]))]
        return _Places(hashes[chosen], items[chosen], starts[chosen])


def _boilerplate(places: _Places, tasks: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """Which places hold a sequence of ``limit`` or more items of their task, and how many such.

    Items of one task stand together, so places sorted by item are sorted by task.
    """
    hashes, items = places.hashes, places.items
    new_item = np.ones(len(hashes), bool)
    new_item[1:] = (hashes[1:] != hashes[:-1]) | (items[1:] != items[:-1])
    new_task = np.ones(len(hashes), bool)
    new_task[1:] = (hashes[1:] != hashes[:-1]) | (tasks[items[1:]] != tasks[items[:-1]])
    group = np.cumsum(new_task) - 1
    common = np.bincount(group, weights=new_item) >= limit
    return common[group], int(common.sum())


def _words(texts: pa.Array) -> pa.ListArray:
    lower = pc.utf8_lower(texts.cast(pa.string()))
    spaced = pc.replace_substring_regex(lower, r"[^\pL\pN]+", " ")
    trimmed = pc.utf8_trim(spaced, " ")
    # Without words a list is null: splitting "" would make one word of it.
    return pc.ascii_split_whitespace(pc.if_else(pc.equal(trimmed, ""), None, trimmed))
