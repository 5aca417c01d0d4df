"""Exact answers: what a response states as its answer, and whether that is the gold answer."""

from __future__ import annotations

import re
from fractions import Fraction

_STATED = re.compile(
    r"(?:(?:the|final|correct|my) answer(?: to [^\n.:]{1,80}?)?\s*(?:is|:|would be)"
    r"|(?:correct|best) (?:option|choice) is|^[*#> -]{0,6}answer[ *]*:|^####)"
    r"\s*(?::\s*)?([^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_OPTION = re.compile(r"\(([A-Z])\)")
_GOLD_OPTION = re.compile(r"\(?([A-Z])\)?")
# Bounded: a loop of digits is no number, and Python converts no more than 4,300 of them.
NUMBER = re.compile(r"(?:(?<!\d)-)?\d{1,99}(?:\.\d{1,99})?(?:/[1-9]\d{0,98})?")
_END = re.compile(r"\.(?:\s|$)|,? (?:because|since|as)\b|[!;]")
_LATER_TAKEN_BACK = re.compile(
    r"(?:[.!?;]\s+)(?:wait|actually|sorry|correction|hmm|no(?=[,:;.!]| wait)"
    r"|(?:that|this|it) (?:is|was) (?:wrong|incorrect|not right))\b",
    re.IGNORECASE,
)
TAKEN_BACK = re.compile(r"\b(?:not|or|either|neither|wait|wrong|should be)\b", re.IGNORECASE)


def stated_answer(response: str) -> str | None:
    """What follows the last "the answer is" or "Answer:" on its line, without a final full stop."""
    found = _STATED.findall(response)
    return plain(found[-1]).removesuffix(".") if found else None


def given_answer(response: str) -> str:
    """The stated answer or, where there is none, the last option letter or number; "": none."""
    stated = stated_answer(response)
    if stated is not None:
        return stated
    text = plain(response)
    found = _OPTION.findall(text) or NUMBER.findall(text)
    return found[-1] if found else ""


def is_exact_answer(response: str, gold: str) -> bool:
    """Whether ``response`` gives ``gold`` as its answer.

    The stated answer counts where there is one: an option's letter, a number (with a unit,
    perhaps), or the very words. An answer that is taken back or left open ("not", "or", "wait")
    is none; what is said of other options in later sentences takes nothing back. Without a stated
    answer the last option letter or the last number of the response counts, so that a model that
    answers without the phrase (as an untrained one does) is not scored on its wording.
    """
    gold = plain(gold).removesuffix(".")
    stated = stated_answer(response)
    option = _GOLD_OPTION.fullmatch(gold)
    if stated is not None and stated.lower() == gold.lower():
        return True
    if option or NUMBER.fullmatch(gold):
        if stated is None:
            found = (_OPTION if option else NUMBER).findall(plain(response))[-1:]
        elif TAKEN_BACK.search(first_clause(stated)) or _LATER_TAKEN_BACK.search(stated):
            return False
        else:
            said = first_clause(stated)
            found = option_letters(said) if option else NUMBER.findall(said)
            found = found if len(set(found)) == 1 else []
        if option:
            return found[:1] == [option[1]]
        return bool(found) and _same_number(found[0], gold)
    if stated is not None:
        return first_clause(stated).lower() == gold.lower()
    return plain(response).removesuffix(".").lower() == gold.lower()


def _same_number(given: str, gold: str) -> bool:
    """12.0 is 12 and 0.5 is 1/2, but 9/21 is not what a question answered by 3/7 asks for."""
    one, other = ([Fraction(part) for part in text.split("/")] for text in (given, gold))
    if len(one) == len(other):
        return one == other
    return one[0] / one[-1] ** (len(one) - 1) == other[0] / other[-1] ** (len(other) - 1)


def first_clause(stated: str) -> str:
    """``stated`` up to its first sentence's end or a "because"."""
    return _END.split(stated, maxsplit=1)[0].strip()


def option_letters(said: str) -> list[str]:
    """The option that ``said`` names: "B", "(B)", "(B) Oisin" or "B) Oisin", not "Bob"."""
    alone = re.match(r"option ([A-Z])$|([A-Z])(?:$|[).:,])", said)
    return [alone[1] or alone[2]] if alone else _OPTION.findall(said)


def plain(text: str) -> str:
    """Without Markdown and TeX marks, dollar signs, thousands commas, doubled white space."""
    text = re.sub(r"\\boxed\{([^}]*)\}", r"\1", text).replace("−", "-")
    text = re.sub(r"[*`\"$]|(?<=\d),(?=\d{3})", "", text)
    return re.sub(r"\s+", " ", text).strip()
