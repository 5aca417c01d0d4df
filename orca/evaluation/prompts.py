"""The zero-shot prompt of AGIEval, which the paper also gives to BBH and TruthfulQA (4.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase


def labels_of(options: Sequence[str]) -> tuple[str, ...]:
    """``("A", "B", …)``, one for each option."""
    return tuple(ascii_uppercase[: len(options)])


def lettered(options: Sequence[str]) -> list[str]:
    """``(A) text``, as the paper's case study of BBH lists options."""
    return [f"({label}) {text}" for label, text in zip(labels_of(options), options, strict=True)]


def zero_shot_prompt(
    question: str, options: Sequence[str], context: str = "", break_before: str = " "
) -> str:
    """``{context}Q: {question}``, the options and ``A: Among A through D, the answer is``.

    Args:
        options: each with its id, in the form in which it is to be listed.
        context: of the question, with whatever stands between the two.
        break_before: what stands before the options: a blank in AGIEval, a line break in the
            paper's case study of BBH.
    """
    # AGIEval's own code says A through E where it finds one option (src/dataset_loader.py).
    last = ascii_uppercase[len(options) - 1] if len(options) > 1 else "E"
    choices = f"Answer Choices: {' '.join(options)}"
    return (
        f"{context}Q: {question}{break_before}{choices}\nA: Among A through {last}, the answer is"
    )
