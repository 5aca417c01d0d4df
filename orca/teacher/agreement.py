"""Whether a response's final answer is a gold target: yes, no, or nobody can tell.

Only "disagrees" costs a response its place, so everything doubtful is "cannot tell". An answer
can contradict a target when both are letters or texts of the query's options, numbers, yes or no,
or short texts that the query itself shows (labels of a classification, spans of a passage).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from orca.answers import NUMBER, TAKEN_BACK, first_clause, option_letters, plain, stated_answer

Agreement = Literal["agrees", "disagrees", "cannot tell"]
Words = tuple[str, ...]

Place = Literal["stated", "whole", "first", "last"]
"""Where a claim stands: after "the answer is", or it is the only, the first or the last line."""

LABEL_WORDS = 5
"""Longest target that is compared as a label."""

_WORD = re.compile(r"\w+(?:'\w+)*")
_ARTICLES = ("a", "an", "the")
_LETTER = re.compile(r"\(([A-Z])\)|([A-Z])(?:[).:](?:\s|$)|$)")
_LETTERED_LINE = re.compile(r"^[ \t]*(?:[-*] )?\(?([A-Z])[).:]\)?[ \t]+(\S.*)$", re.MULTILINE)
_LETTERED = re.compile(r"\(([A-Z])\)\s*(\S[^\n(]*)")
_BULLET = re.compile(r"^[ \t]*[-*•][ \t]+(\S.*)$", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_POLARITY = re.compile(r"(yes|true|correct)|(no|false|incorrect)", re.IGNORECASE)
_FOLLOWS = re.compile(r"\s*(?:$|[,.;:!–—-]|(?:it|because|since)\b)", re.IGNORECASE)
# Numbers beside these may be equal though written in another way: 0.5 and 50 %, 1.2 million.
_SCALE = re.compile(r"%|percent|hundred|thousand|million|billion|dozen|[×^]|\b10e", re.IGNORECASE)
_NUMBER_WORDS = {
    **{"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"},
    **{"seven": "7", "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12"},
}


def agreement(response: str, targets: Sequence[str], query: str = "") -> Agreement:
    """Compares the answer that ``response`` states with the gold ``targets``, any of which counts.

    "The answer is …" and its like decide where they occur, the last of them. Otherwise the
    first line and the last sentence do, when they are an answer and nothing else, begin with yes
    or no, or (the last sentence) hold a single number that is not the query's.

    Args:
        query: its options, if it lists any, connect letters with texts.
    """
    asked = _Asked(_options(query), f" {' '.join(_tokens(query))} ", _numbers(query))
    found = {_with_target(response, target, asked) for target in targets}
    if "agrees" in found:
        return "agrees"
    return "disagrees" if found == {"disagrees"} else "cannot tell"


@dataclass(frozen=True, slots=True)
class _Asked:
    options: Mapping[str, Words]
    shown: str  # words with spaces between and around
    numbers: set[Fraction]


def _with_target(response: str, target: str, asked: _Asked) -> Agreement:
    stated = stated_answer(response)
    if stated is not None:
        return _compare(stated, "stated", target, asked)
    lines = [line.strip() for line in response.split("\n") if line.strip()]
    if not lines:
        return "cannot tell"
    last = _SENTENCE.split(lines[-1])[-1]
    if lines == [last]:
        return _compare(last, "whole", target, asked)
    found = {
        _compare(lines[0], "first", target, asked),
        _compare(last, "last", target, asked),
    } - {"cannot tell"}
    return found.pop() if len(found) == 1 else "cannot tell"


def _compare(claim: str, place: Place, target: str, asked: _Asked) -> Agreement:
    """Compares what a response claims with one target, as the first of five kinds that fits."""
    claim, gold = plain(claim).removesuffix("."), plain(target).removesuffix(".")
    said = first_clause(claim) if place == "stated" else claim
    if said and gold and gold.casefold() in (said.casefold(), claim.casefold()):
        return "agrees"
    if choice := _choice(gold, asked.options):
        return _verdict(choice, _choice_of(said, asked.options, alone=place != "stated"))
    if NUMBER.fullmatch(number := _digits(gold)):
        return _compare_numbers(said, place, number, target, asked)
    if _words(gold) and _words(gold) in (_words(said), _words(claim)):
        return "agrees"
    if _polarity(gold) is not None:
        return _verdict(_polarity(gold), _polarity(said))
    if TAKEN_BACK.search(said) or place in ("first", "last"):
        return "cannot tell"
    return _compare_labels(_words(gold), _words(said), asked.shown)


def _compare_numbers(said: str, place: Place, gold: str, target: str, asked: _Asked) -> Agreement:
    found = set(NUMBER.findall(_digits(said)))
    values = {Fraction(one) for one in found}
    if TAKEN_BACK.search(said) or not found or place == "first":
        return "cannot tell"
    if place != "stated" and len(values) > 1:
        return "cannot tell"
    if any(_equal(one, gold) for one in found):
        return "agrees" if len(values) == 1 else "cannot tell"
    # A number of the query in a sentence about something else is no answer.
    given = place != "stated" and said != "".join(found) and values <= asked.numbers
    scaled = bool(_SCALE.search(said)) != bool(_SCALE.search(target))
    return "cannot tell" if given or scaled else "disagrees"


def _compare_labels(gold: Words, said: Words, shown: str) -> Agreement:
    if not gold or not said or max(len(gold), len(said)) > LABEL_WORDS:
        return "cannot tell"
    if not all(f" {' '.join(words)} " in shown for words in (gold, said)):
        return "cannot tell"
    # A shorter or longer name of the same thing shares a word; "Sentence A" and "Sentence B"
    # differ in their marks alone.
    marks = set(gold) ^ set(said)
    shares = set(gold) & set(said)
    differ = not shares or (len(marks) == 2 and all(len(mark) == 1 for mark in marks))
    return "disagrees" if differ else "cannot tell"


def _options(query: str) -> dict[str, Words]:
    """The texts of the last list of options by letter, or by number where it has bullets."""
    for pattern in (_LETTERED_LINE, _LETTERED):
        texts = {found[1]: _words(found[2]) for found in pattern.finditer(query)}
        if "A" in texts and "B" in texts:
            return texts
    bullets = _BULLET.findall(query)
    return {str(i): _words(text) for i, text in enumerate(bullets)} if len(bullets) > 1 else {}


def _choice(gold: str, options: Mapping[str, Words]) -> str | None:
    """Which option a target is: by its letter, or by its text."""
    if letter := _LETTER.match(gold):
        return letter[1] or letter[2]
    return next((name for name, text in options.items() if text and text == _words(gold)), None)


def _choice_of(said: str, options: Mapping[str, Words], alone: bool) -> str | None:
    """The one option that ``said`` names."""
    words = _words(said)
    if words in (same := list(options.values())) and same.count(words) == 1:
        return next(name for name, text in options.items() if text == words)
    if TAKEN_BACK.search(said):
        return None
    letters = set(option_letters(said))
    if letters:
        (letter, *more) = letters
        rest = _words(re.sub(r"^\W*(?:option )?[A-Z]\b", "", said))
        if more or (alone and rest not in ((), options.get(letter, ()))):
            return None
        return letter
    if alone:
        return None
    begun = [name for name, text in options.items() if text and words[: len(text)] == text]
    return max(begun, key=lambda name: len(options[name]), default=None)


def _verdict(gold: str | bool | None, said: str | bool | None) -> Agreement:
    if said is None:
        return "cannot tell"
    return "agrees" if said == gold else "disagrees"


def _polarity(text: str) -> bool | None:
    """True for "Yes, …", False for "No, …" and None for anything else, "no one" for example."""
    word = _POLARITY.match(text)
    if not word or not _FOLLOWS.match(text, word.end()):
        return None
    return word[1] is not None


def _words(text: str) -> Words:
    """Words in small letters, without an article at the beginning."""
    words = tuple(_tokens(plain(text)))
    return words[1:] if len(words) > 1 and words[0] in _ARTICLES else words


def _tokens(text: str) -> list[str]:
    return _WORD.findall(text.casefold().replace("’", "'"))


def _numbers(text: str) -> set[Fraction]:
    return {Fraction(one) for one in NUMBER.findall(_digits(plain(text)))}


def _digits(text: str) -> str:
    """With the numbers up to twelve in digits, and a target's percent sign or euro taken off."""
    spelt = re.sub(r"[a-z]+", lambda w: _NUMBER_WORDS.get(w[0].lower(), w[0]), text, flags=re.I)
    return spelt.strip(" %€£")


def _equal(one: str, other: str) -> bool:
    """Equal, or so when the one with more decimals is rounded to those of the other."""
    decimals = min(_decimals(one), _decimals(other))
    difference = abs(Fraction(one) - Fraction(other))
    return difference == 0 or (decimals > 0 and difference <= Fraction(1, 2 * 10**decimals))


def _decimals(number: str) -> int:
    return 1000 if "/" in number else len(number.partition(".")[2])
