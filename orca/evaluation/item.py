"""A question of a benchmark, and a model's answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

NEVER_SHOWN = ("toxigen",)
"""Benchmarks whose texts stand in no report, log or error."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question, ready to be asked.

    Attributes:
        id: unique and stable: benchmark, task and row of the source, as ``bbh/navigate/17``.
        prompt: the whole user message.
        labels: ids of the options in their order, ``("A", "B")``; empty: no options.
        options: their texts, without the ids.
        gold: every label that is right; without options the gold answer, or nothing where a judge
            or classifier scores.
        group: what a table may break a task down by (category, skill, target group).
    """

    id: str
    benchmark: str
    task: str
    prompt: str
    labels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    group: str = ""


class Benchmark(Protocol):
    """A set of tasks.

    Attributes:
        name: as in ``benchmark=[agieval]``.
        kind: how answers are scored: by label, by the gold answer, by a judge, by a toxicity
            classifier.
    """

    name: str
    kind: Literal["multiple_choice", "free_answer", "judged", "toxicity"]

    def items(self) -> list[Item]:
        """All items in a fixed order; raises ``UserError`` where the data is not as it must be."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of a model to one item: a row of the records.

    Attributes:
        draw: number of the draw of this item, from 0.
        seed: of this draw; servers are not told it.
        system_message: number in Table 2.
        text: raw output.
        finish_reason: ``stop``, ``length``, ``content_filter``, ``other``, or ``failed``: no answer
            came.
        first_capital: label by the paper's rule; "": none.
        stated: label that the answer states; "": none. Of a free answer both are the answer that
            it gives, the gold answer where that is the same.
        latency: seconds, of the whole batch where items are batched.
    """

    item: str
    benchmark: str
    task: str
    draw: int
    seed: int
    system_message: int
    prompt: str
    text: str
    finish_reason: str
    gold: tuple[str, ...] = ()
    first_capital: str = ""
    stated: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    latency: float = 0.0
    error: str = ""

    @property
    def correct(self) -> bool:
        """By the paper's rule."""
        return self.first_capital in self.gold

    @property
    def format_ok(self) -> bool:
        """The paper's rule finds an answer."""
        return bool(self.first_capital)

    @property
    def stated_correct(self) -> bool:
        """By the stricter extractor."""
        return self.stated in self.gold
