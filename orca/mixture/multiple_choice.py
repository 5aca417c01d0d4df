"""Does a query show answer options to choose from?

The paper keeps messages 8 and 10 for multiple-choice questions (section 3.1.1) and does not say how
it found them. FLAN draws the form of an option block at random (16 lead-ins, one of them empty, by
some 90 item names by 3 endings: ``flan/v2/templates.py``), so a search for ``OPTIONS:`` misses most
of them; T0's templates and Super-NaturalInstructions have forms of their own. What counts here is a
list of two or more alternatives:

- items after words that offer a choice (``Select from below.``), with any marks, on lines or not;
- a list without marks after such words and a colon (``Choices: yes, no``), after ``choose
  between`` or on a line ``Categories: …``;
- items with any marks straight after a question mark;
- items whose marks hardly occur elsewhere, without words before (``(A)`` … ``(B)``, ``a).`` …);
- items with any marks at the end of the query, when an instruction before them asks or offers a
  choice, though a passage stands between (``Choose the more plausible. It fell. - a - b``).

A question that names its answers in the sentence ("Is it positive or negative?") does not count:
there are no *other answers* that a teacher could explain away. A list that is offered to a writer
("Possible sentiments: … Write a tweet") does count, for it looks the same.
``benchmarks/multiple_choice.py`` measures precision and recall on real rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST_ITEM = 3000
"""Characters within which the second item must begin; bounds the time on any input."""

OFFERS = (
    *("option", "opt:", "choice", "choos", "pick", "select"),
    *("possible answers", "answer between", "list of categories"),
)
"""Beginnings of words that offer a choice, in lower case."""

# From such a word to the end of its clause, which the items must follow at once.
_CLAUSE = re.compile(r"[^\n:.?!]{0,60}(?:[:.?!]+|\n|(?<=are )-)\s*")
# The same before a list without marks, where "choose your answer: is it so, if …" must not match.
_ANNOUNCED = re.compile(
    r"[^\n:.?!]{0,60}?\b(?:opt|options|choices?|answers|list|list of categories|from|between|among"
    r"|one of|(?:from|of) the following)(?: are)? ?[:-]\s*"
)
_UNMARKED = re.compile(r"[^\n,;|.]{1,60}(?:[,;|]| or )\s*[^\s,;|]")
_LABELLED = re.compile(r"^[ \t]*(?:Categories|Descriptors): ?" + _UNMARKED.pattern, re.M)
_BETWEEN = re.compile(
    r"(?:choose|pick|select|answer)\b[^\n:.?!]{0,30}(?<= )between +"
    r"(?!the\b|these\b|those\b)(?P<quoted>[\"'])?[^\n.?!]{1,60}?(?:,| and | or )"
)
_ASKED = re.compile(r"\?['\")\]]*[ \t]*(?P<line>\n?)\s*")

_MARK = re.compile(
    r"(?:[-+*] ?)?(?P<open>(?:option |choice )?[(\[]?)(?P<name>[AaIi10])"
    r"(?P<close> ?[)\]][.:]?|[.:](?=\s))"
    r"|(?P<sign>--?|[+*•]|\[[-+]\])"
)
_NEXT_NAME = {"A": "B", "a": "b", "I": "II", "i": "ii", "1": "2", "0": "1"}

# First marks that mean options without words before, where a line or a sentence begins.
_BRACKETS = r"(?:\(A\)|\[A\]|A\)|[(\[]?[AaIi1][)\]]\.\s)"
_PLAIN = re.compile(
    rf"(?:\A|\n)[ \t]*(?=(?:[-+*] ?)?{_BRACKETS}|A\.\s|[-+*] ?A:\s)"
    rf"|[.?!:_]['\")]?\s+(?={_BRACKETS})"
)
# Without one of these there are no two such marks; `in` is much faster than a search.
_PLAIN_PARTS = ("B)", "B]", "B.", "B:", "). ", "]. ")

# A block at the end of a query: what may follow it, a line of it, and what announces it from afar.
_ANSWER = re.compile(r"(?:\n|\.\.+)\s*(?:(?:I think )?[Tt]he )?(?:A|[Aa]nswer)(?: is)?\s*:?\Z")
LONGEST_ANSWER = 40  # characters
_ITEM = re.compile(
    r"[ \t]*(?P<mark>(?:[-+*] ?)?(?:option |choice )?[(\[]?(?:\w|\d\d|[ivIV]{2,4})"
    r"(?: ?[)\]]|[.:](?=\s))|--?|[+*•]|\[[-+]\])[^\n]*\w"
)
_TASK = re.compile(
    r"\b(?:choos|choice|pick\b|select|option|alternative|(?:more|most) (?:likely|plausible)"
    r"|next sentence|complete the (?:rest|passage|(?:following )?(?:sentence|text|story)))"
)
_LABEL = re.compile(
    r"^[^\w\n]*(?:\w{1,2}[^\w\n]+)?(?:yes|no|true|false|positive|negative)[.;]?$", re.I | re.M
)
LONGEST_INSTRUCTION = 400  # characters of a line; a longer one is taken for a passage


def shows_options(query: str) -> bool:
    """Whether ``query`` shows at least two answer options to choose from.

    The time is linear in the length: under 20 µs for a query of 1,000 characters.
    """
    return (
        _after_offer(query.lower())
        or _after_question(query)
        or _plain(query)
        or _labelled(query)
        or _at_the_end(query)
    )


def _after_offer(query: str) -> bool:
    """Items, or a list without marks, straight after words that offer a choice."""
    for offer in OFFERS:
        for start in _occurrences(query, offer):
            clause = _CLAUSE.match(query, start)
            mark = clause and _MARK.match(query, clause.end())
            if mark and _second_item(query, mark) and not _itemised(query, start, mark):
                return True
            listed = _ANNOUNCED.match(query, start)
            if listed and _UNMARKED.match(query, listed.end()):
                return True
            mark = _MARK.match(query, start)  # the word may be the mark: "Option 1: …"
            if mark and _second_item(query, mark):
                return True
            between = _BETWEEN.match(query, start)
            if between and (between["quoted"] or _begins_sentence(query, start)):
                return True
    return False


def _after_question(query: str) -> bool:
    """Items straight after a question mark."""
    for asked in _ASKED.finditer(query):
        mark = _MARK.match(query, asked.end())
        if not mark or (mark["sign"] and not asked["line"]):
            continue
        if _are_answers(query, mark) and not _itemised(query, asked.start(), mark):
            return True
    return False


def _plain(query: str) -> bool:
    """Items whose marks are hardly used for anything but options."""
    if not any(part in query for part in _PLAIN_PARTS):
        return False
    marks = (_MARK.match(query, found.end()) for found in _PLAIN.finditer(query))
    return any(mark and _second_item(query, mark) for mark in marks)


def _labelled(query: str) -> bool:
    """A list without marks on a line that says what it lists."""
    named = "Categories:" in query or "Descriptors:" in query
    return named and _LABELLED.search(query) is not None


def _at_the_end(query: str) -> bool:
    """Items with nothing but ``Answer:`` after them, which an instruction announces from afar."""
    query = query.rstrip()
    answer = _ANSWER.search(query, max(0, len(query) - LONGEST_ANSWER))
    query = query[: answer.start()].rstrip() if answer else query
    start = _closing_items(query)
    mark = _MARK.match(query, start) if start else None
    if not mark or not _are_answers(query, mark):
        return False
    return _LABEL.search(query, start) is not None or _announced(query, start)


def _closing_items(query: str) -> int:
    """Where the lines begin, all of them items, with which ``query`` ends; 0 if there are none."""
    first, end = 0, len(query)
    while end > 0:
        start = query.rfind("\n", 0, end) + 1
        item = _ITEM.match(query, start, end)
        if item:
            first = item.start("mark")
        elif query[start:end].strip():
            break
        end = start - 1
    return first


def _announced(query: str, position: int) -> bool:
    """Whether the first line or one of the last three before ``position`` asks for a choice."""
    before = query[max(0, position - LONGEST_ITEM) : position]
    last = [line.strip() for line in before.split("\n") if line.strip()][-3:]
    opening = query[: min(position, LONGEST_INSTRUCTION + 1)].partition("\n")[0]
    lines = [line for line in (opening, *last) if len(line) <= LONGEST_INSTRUCTION]
    if any(_TASK.search(line.lower()) for line in lines):
        return True
    # "Can you write to him?\n\nNotes:\n- …": the list has a name of its own
    named = not last or last[-1].endswith(":")
    return not named and any(line.rstrip(" )\"'").endswith("?") for line in lines)


def _begins_sentence(query: str, position: int) -> bool:
    """Whether ``position`` may begin a sentence: prose too has "he must choose between"."""
    before = query[max(0, position - 5) : position].rstrip(" \"'")
    return not before or before[-1] in "\n.?!:,"


def _are_answers(query: str, mark: re.Match[str]) -> bool:
    """Whether another item follows ``mark``'s, and they are not questions or what people say."""
    second = _second_item(query, mark)
    if not second or query[mark.end() : second].rstrip().endswith("?"):
        return False
    speech = (mark["close"] or "").endswith(":") and query.find("\n" + mark[0], second) > 0
    return not speech


def _second_item(query: str, mark: re.Match[str]) -> int:
    """Where the item after ``mark``'s begins; 0 where there is none."""
    second = mark["sign"] or mark["open"] + _NEXT_NAME[mark["name"]] + mark["close"]
    # "(1)this(2)that" needs no space; a bare mark does.
    bracket = second[0] in "([" and not mark["sign"]
    found = _first(query, mark.end(), [second] if bracket else [" " + second, "\n" + second])
    if query[mark.end() : found].strip():
        return found
    if mark["name"] and mark[0][0] in "-+*":  # "- a. - the.": the letter is the item
        return _first(query, mark.end(), [" " + mark[0][0], "\n" + mark[0][0]])
    return 0


def _first(query: str, start: int, parts: list[str]) -> int:
    """Where the first of ``parts`` stands after ``start``; 0 if none does."""
    found = (query.find(part, start, start + LONGEST_ITEM) for part in parts)
    return min((at for at in found if at > 0), default=0)


def _itemised(query: str, position: int, mark: re.Match[str]) -> bool:
    """Whether the line of ``position`` begins with the same mark.

    An item of a dialogue or of a list of steps that asks or offers does not announce the next item.
    """
    before = query[max(0, position - LONGEST_ITEM) : position]
    return before[before.rfind("\n") + 1 :].lstrip().startswith(mark[0])


def _occurrences(query: str, part: str) -> Iterator[int]:
    start = query.find(part)
    while start >= 0:
        yield start
        start = query.find(part, start + 1)
