"""Which option a response chose: by the paper's rule, and by what the response states.

Both give a label, or "" for a format failure: the rule finds no choice. How often each is right on
real outputs is in docs/evaluation.md, "Answer extraction".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orca.answers import TAKEN_BACK, plain

AGIEVAL_LETTERS = "ABCDEF"
LONGEST_STATEMENT = 500  # characters after "the answer is"; bounds the time on any output

# "The answer is …", "Correct option: …", "A: …", "I would choose …"; what is stated follows.
_PHRASE = re.compile(
    r"\b(?:answer|option|choice)(?: (?:to|for|here|choice|option)\b[^\n.:]{0,80}?)?[*_]*\s*"
    r"(?:\b(?:is|would be|must be)\b|:)[*_]*(?!\s+(?:in)?correct)\s*(?:that\b|:)?\s*"
    r"|^[*#> ]{0,6}A[*_]*\s*:\s*|\bI(?: would| will)? (?:choose|pick|select)\s+"
    r"|\\boxed\{(?:\\\w+\{)?",
    re.IGNORECASE | re.MULTILINE,
)
_OPEN = re.compile(r"\b(?:and|none|cannot|incorrect)\b|" + TAKEN_BACK.pattern, re.IGNORECASE)
_BESIDE = re.compile(
    r"[,\s]*or\b|\s*and\b|[,/&\s]*(?:and\s+)?(?:option )?(?:\([a-z]\)|[a-z](?=$|[).,]))"
)
_DENIED = re.compile(
    r"\W*(?:which |that |it )?(?:(?:is|was)(?:n't| not| wrong| incorrect)|cannot|should be)\b"
)
_REVOKED = re.compile(
    r"\b(?:wait\b(?! for)|scratch that|on second thought|my mistake|I was wrong"
    r"|(?:that|this) is (?:wrong|not (?:right|correct)))",
    re.IGNORECASE,
)
_ID = re.compile(r"\(([A-Z])\)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def first_capital(text: str, labels: Sequence[str]) -> str:
    """The paper's rule (section 4.2.2): the first capital letter, whatever comes later.

    As in AGIEval's code, other capitals than A to F are passed over: ``The answer is (B)`` is B.
    An E for an item of four options is an answer, though no right one; here it is "". Items with
    more than six options widen the letters to theirs. ``Answer: (B)`` is A and ``Based on the
    passage, (C)`` is B: so the rule is.
    """
    letters = {*AGIEVAL_LETTERS, *labels}
    found = next((character for character in text if character in letters), "")
    return found if found in labels else ""


def stated_label(text: str, labels: Sequence[str], options: Sequence[str]) -> str:
    """The label of the option that the response states as its answer.

    The last statement counts: what follows ``the answer is`` and its like, or precedes ``is
    correct``, read as an id (``(C)``, ``C.``) or as an option's very text. Without a statement it
    is the id or text with which the first or the last line begins, or the only id that the last
    sentence names in parentheses. A statement that leaves the answer open (``(A) or (B)``), names
    no option (``(none)``), denies it (``not (A)``) or is taken back (``Wait``) gives "".
    """
    reader = _Reader(labels, options)
    end, label = reader.last_statement(text)
    if _REVOKED.search(text, end):
        return ""
    if end:
        return label
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    ids = {*map(reader.leading_id, lines)} - {""}
    if len(ids) > 1 and reader.leading_id(lines[-1]):  # (A) …, (B) …: a list of the options
        return ""
    if len(ids) < 2:
        label = reader.begins_with(lines[0]) or reader.begins_with(lines[-1]) or ""
    return label or reader.only_id(_SENTENCE.split(text.strip())[-1])


class _Reader:
    """Reads ids and texts of one item's options."""

    def __init__(self, labels: Sequence[str], options: Sequence[str]) -> None:
        self.text_of = {label: _bare(option) for label, option in zip(labels, options, strict=True)}
        texts = [*self.text_of.values()]
        # An option whose text another one has too cannot be stated by its text.
        self.label_of = {
            text: label for label, text in self.text_of.items() if text and texts.count(text) == 1
        }
        letters = "".join(labels)
        self._leading = re.compile(
            r"\W{0,3}(?:(?i:option|choice) )?"
            rf"(?:\(([A-Za-z])\)|([{letters}])(?=$|[).:,;}}\]]|\s+-))[).:}}\]]*\s*"
        )
        named = rf"\b(?i:option|choice|answer) \(?([{letters}])\b|\(([{letters}])\)"
        self._called_correct = re.compile(
            rf"(?:{named}|^[^\w\n]{{0,6}}([{letters}])\b)\)?(?:(?!\([A-Z]\))[^.\n]){{0,200}}?"
            r"\b(?:is|must be|would be) (?:also )?(?:the )?(?:most |only )?"
            r"(?:correct|right|best|answer|accurate|appropriate)(?: (?:answer|option|choice|one)\b"
            r"|[^\w\s]|$)",
            re.MULTILINE,
        )

    def last_statement(self, text: str) -> tuple[int, str]:
        """(where it ends, its label or "" if it leaves the answer open); (0, ""): there is none."""
        last = (0, "")
        for phrase in reversed([*_PHRASE.finditer(text)]):
            line = text[phrase.end() : phrase.end() + LONGEST_STATEMENT].split("\n", 1)[0]
            sentence = _SENTENCE.split(line)[0]
            label = self.begins_with(line)
            if label is None and _ID.search(sentence):  # "the answer is the city in France, (A)"
                label = self.only_id(sentence)
            if label is not None:
                last = (phrase.end() + len(sentence), label)
                break
        for match in self._called_correct.finditer(text):
            last = max(last, (match.end(), next(filter(None, match.groups()))))
        return last

    def begins_with(self, line: str) -> str | None:
        """The label whose id or text begins the line; "": it leaves it open; None: no option."""
        said = plain(line)
        leading = self._leading.match(said)
        if leading:
            label = (leading[1] or leading[2]).upper()
            rest = said[leading.end() :].lower().removeprefix(self.text_of.get(label, ""))
            return "" if label not in self.text_of or _leaves_open(rest) else label
        said = _bare(said)
        text = max((text for text in self.label_of if _begins(said, text)), key=len, default="")
        if text:
            label = self.label_of[text]
            rest = said[len(text) :].replace(f"({label.lower()})", "")
            return "" if _leaves_open(rest) else label
        return "" if re.match(r"\W*(?:none|neither|not)\b", said) else None

    def leading_id(self, line: str) -> str:
        """The id with which the line begins; "": none."""
        match = self._leading.match(plain(line))
        return (match[1] or match[2]).upper() if match else ""

    def only_id(self, text: str) -> str:
        """The one option that ``text`` names in parentheses; "": none or several, or it denies."""
        ids = set(_ID.findall(text))
        label = ids.pop() if len(ids) == 1 else ""
        return "" if label not in self.text_of or _OPEN.search(text) else label


def _bare(text: str) -> str:
    """In lower case, without marks, and without punctuation at its ends."""
    return plain(text).lower().strip(" .,;:!?'’‘“”")


def _begins(said: str, text: str) -> bool:
    """``said`` is ``text``, or begins with it and goes on with another clause."""
    after = said.removeprefix(text)
    return said.startswith(text) and bool(
        re.match(r"$|[.,;:!?)](?!\d)| (?:because|since|as|or|and)\b| [-–(]", after)
    )


def _leaves_open(rest: str) -> bool:
    """What follows an option puts another one beside it, denies it or takes it back."""
    return bool(_BESIDE.match(rest) or _DENIED.match(rest))
