"""What a family of questions is, and what one solved question carries for the voices."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

Item = Mapping[str, Any]
"""One reasoning-gym entry: ``question``, ``answer`` and ``metadata``."""

LETTERS = "ABCDEF"


@dataclass(frozen=True)
class Step:
    """One small local operation of a procedure.

    Attributes:
        work: The worked line, without a final full stop, the same in every voice.
        reason: Why the line is right, as the clause that follows "because".
    """

    work: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """One lettered option; ``fault`` says why it is wrong and is empty for the right one."""

    letter: str
    text: str
    fault: str = ""

    @property
    def label(self) -> str:
        """The option as it is named in running text, for example ``(B) mother``."""
        return f"({self.letter}) {self.text}"


@dataclass(frozen=True)
class Problem:
    """A solved question, taken apart so that each voice can word it in its own way.

    Attributes:
        stem: The question without its options.
        gold: The final answer as it is stated: a text, or the letter of the right option.
        task: What is asked, as the phrase that follows "to".
        definitions: Wordings of the rule that the procedure rests on, each a sentence.
        plain: Wordings of the same rule for a small child, each one or two sentences.
        steps: The procedure.
        check: A sentence that confirms the result in a second way.
        method: The procedure as one instruction.
        form: The instruction about the form of the answer.
        form_reason: A sentence saying why the given answer has that form.
        difficulty: Larger is harder; comparable inside a family only.
        choices: The options, empty for a free answer.
        subject: What tells the question from others, where the stem does not.
    """

    stem: str
    gold: str
    task: str
    definitions: tuple[str, ...]
    plain: tuple[str, ...]
    steps: tuple[Step, ...]
    check: str
    method: str
    form: str
    form_reason: str
    difficulty: float
    choices: tuple[Choice, ...] = ()
    subject: str = ""

    @property
    def identity(self) -> str:
        """A form in which the same question asked in another order reads the same."""
        words = re.findall(r"\w+|[^\w\s]", (self.subject or self.stem).lower())
        return " ".join(sorted(words))

    @property
    def query(self) -> str:
        """The question as it is asked, with its options if it has any."""
        if not self.choices:
            return self.stem
        return self.stem + "\nOPTIONS:\n" + "\n".join(choice.label for choice in self.choices)

    @property
    def answer_text(self) -> str:
        """The answer in the words that the reasoning-gym checker reads."""
        for choice in self.choices:
            if choice.letter == self.gold:
                return choice.text
        return self.gold


@dataclass(frozen=True)
class Family:
    """A kind of question.

    Attributes:
        name: Name of the reasoning-gym dataset, and of the task in the sample.
        solve: Makes a problem of an item with our own procedure, or returns None to pass over an
            item that is too hard or badly worded.
        config: Settings of the reasoning-gym dataset.
        multiple_choice: Whether the questions have lettered options.
    """

    name: str
    solve: Callable[[Item, Random], Problem | None]
    config: Mapping[str, Any] = field(default_factory=dict)
    multiple_choice: bool = False


def lettered(right: str, wrong: list[tuple[str, str]], rng: Random) -> tuple[Choice, ...]:
    """The right text and the wrong ``(text, fault)`` pairs as options in random order."""
    options = [(right, ""), *wrong]
    rng.shuffle(options)
    return tuple(Choice(LETTERS[i], text, fault) for i, (text, fault) in enumerate(options))


def right_choice(choices: tuple[Choice, ...]) -> Choice:
    """The one option without a fault."""
    (choice,) = (choice for choice in choices if not choice.fault)
    return choice


OPTION_FORM = "Answer with the letter of one option."


def option_form_reason(choice: Choice) -> str:
    """Why the letter of ``choice`` is a well-formed answer."""
    return f"Only option ({choice.letter}) fits the result, so one letter is enough."
