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

_HEADING = re.compile(r"^[*#> ]{0,6}A[*_]*\s*:\s*", re.MULTILINE)  # for "Answer:"
# "The answer is …", "Correct option: …", "A: …", "I would choose …"; what is stated follows.
_PHRASE = re.compile(
    r"\b(?:answer|option|choice)(?: (?:to|for|here|choice|option)\b[^\n.:]{0,80}?)?[*_]*\s*"
    r"(?:\b(?:is|would be|must be)\b|:)[*_]*(?!\s+(?:in)?correct)\s*(?:(?:that|indeed)\b|:)?\s*"
    rf"|{_HEADING.pattern}|\bI(?: would| will)? (?:choose|pick|select)\s+"
    r"|\\boxed\{(?:\\\w+\{)?",
    re.IGNORECASE | re.MULTILINE,
)
_OPEN = re.compile(
    r"\b(?:and|none|cannot|incorrect)\b|\b(?:if|whether)\b[^()\n]*\(|" + TAKEN_BACK.pattern,
    re.IGNORECASE,
)
_IS_NOT = r"\b(?:(?:is|was|are)(?:n't| not| wrong| incorrect| false)|cannot)\b"
_DENIED = re.compile(rf"\W*(?:which |that |it )?(?:{_IS_NOT}|should be\b)", re.IGNORECASE)
_REVOKED = re.compile(
    r"\b(?:(?-i:Wait)\b(?! for)|no,? wait\b|wait,|scratch that|on second thought|my mistake"
    r"|I was wrong|(?:that|this) is (?:wrong|not (?:right|correct)))",
    re.IGNORECASE,
)
# "If the answer is …", "I do not think that (A) is correct": what precedes a statement of nothing.
_SUPPOSED = re.compile(
    r"(?:\b(?:if|whether|unless|suppose|assum(?:e|ing)|not|cannot)|n't)\b"
    r"(?: (?:that|the|our|my|sure|true|say|think|believe|correct|right|best|final))*[\s*]*$",
    re.IGNORECASE,
)
# The turn of another role, which a model that does not stop goes on with.
_NEXT_TURN = re.compile(
    r"(?<!#)#{2,3} ?(?:Human|User|System|Assistant):|<\|im_(?:start|end)\|>"
    r"|^[* ]{0,3}(?:Human|User|System|Assistant|Question|Q)[* ]{0,3}:",
    re.MULTILINE,
)
_AROUND = " .,;:!?'’‘“”"  # an option's text, in a sentence
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
    no option (``(none)``), denies it (``not (A)``) or is taken back (``Wait``) gives "". One that
    only supposes it (``if the answer is (A)``) is passed over, and nothing is read from the turn of
    another role that a model invents after its own (``### Human:``).
    """
    text = text.strip()
    turn = _NEXT_TURN.search(text, 1)  # a heading at 0 comes before the answer, not after it
    text = text[: turn.start()] if turn else text
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
    text = _HEADING.sub("", text)  # no statement follows it, and it is not the option A
    lines = [line for line in text.splitlines() if line.strip()] or [""]
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
        leading = (
            r"\W{0,3}(?:(?i:option|choice) )?"
            rf"(?:\(([A-Za-z])\)|([{letters}])(?=$|[).:,;}}\]]|\s+-%s))[).:}}\]]*\s*"
        )
        self._leading = re.compile(leading % "")
        # After "the answer is", "B and here is why" names B; "A and his wife" may begin a story.
        self._stated = re.compile(leading % r"| \(| (?:and|or|because|since|as)\b")
        others = "|".join([r"\([A-Z]\)", *(re.escape(text) for text in texts if text)])
        self._beside = re.compile(
            rf"[,\s]*(?i:or)\b|[,/&\s]*(?i:option )?(?:\([A-Za-z]\)|[{letters}](?=$|[).,]))"
            r"|[,\s]*(?i:and\s+(?:(?:also|maybe|perhaps|possibly|option)\s+)?)"
            rf"(?:[{letters}]\b|(?i:{others})(?!\w))(?!\s*{_IS_NOT})"
        )
        named = rf"\b(?i:option|choice|answer) \(?([{letters}])\b|\(([{letters}])\)"
        # A letter alone is an id before a verb or a mark: "A is", "B, too, is", not "A dog is".
        before = r"^[^\w\n]{0,6}|[,;:.] |\b(?i:and|but|so|while|that|think|hence|thus|therefore) "
        alone = rf"(?:{before})([{letters}])(?=[^\w\s]| (?:is|must be|would be)\b)"
        self._called_correct = re.compile(
            rf"(?:{named}|{alone})\)?(?:(?!\([A-Z]\)|\b[{letters}]\b|{_IS_NOT})[^.\n]){{0,200}}?"
            r"\b(?:is|must be|would be) (?:also )?(?:the )?(?:most |only )?"
            r"(?:correct|right|best|answer|accurate|appropriate)(?: (?:answer|option|choice|one)\b"
            r"|[^\w\s]|$)",
            re.MULTILINE,
        )

    def last_statement(self, text: str) -> tuple[int, str]:
        """(where it ends, its label or "" if it leaves the answer open); (0, ""): there is none."""
        last = (0, "")
        for phrase in reversed([*_PHRASE.finditer(text)]):
            if _supposed(text, phrase):
                continue
            line = text[phrase.end() : phrase.end() + LONGEST_STATEMENT].split("\n", 1)[0]
            sentence = _SENTENCE.split(line)[0]
            label = self.begins_with(line, self._stated)
            if label is None and _ID.search(sentence):  # "the answer is the city in France, (A)"
                label = self.only_id(sentence)
            if label is not None:
                last = (phrase.end() + len(sentence), label)
                break
        for match in self._called_correct.finditer(text):
            if not _supposed(text, match):
                last = max(last, (match.end(), next(filter(None, match.groups()))))
        return last

    def begins_with(self, line: str, id: re.Pattern[str] | None = None) -> str | None:
        """The label whose id or text begins the line; "": it leaves it open; None: no option."""
        said = plain(line)
        leading = (id or self._leading).match(said)
        if leading:
            label = (leading[1] or leading[2]).upper()
            rest = _after(said[leading.end() :], self.text_of.get(label, ""))
            return "" if label not in self.text_of or self._leaves_open(rest) else label
        said = said.strip(_AROUND)
        texts = (text for text in self.label_of if _begins(said.lower(), text))
        text = max(texts, key=len, default="")
        if text:
            label = self.label_of[text]
            rest = _after(said, text).replace(f"({label})", "")
            # "Paris and …" may be another place than the option Paris.
            opens = self._leaves_open(rest) or re.match(r"\s*and\b", rest)
            return "" if opens else label
        return "" if re.match(r"(?i)\W*(?:none|neither|not)\b", said) else None

    def _leaves_open(self, rest: str) -> bool:
        """What follows an option puts another one beside it, denies it or takes it back."""
        return bool(self._beside.match(rest) or _DENIED.match(rest) or _REVOKED.search(rest))

    def leading_id(self, line: str) -> str:
        """The id with which the line begins; "": none."""
        match = self._leading.match(plain(line))
        return (match[1] or match[2]).upper() if match else ""

    def only_id(self, text: str) -> str:
        """The one option that ``text`` names in parentheses; "": none or several, or it denies."""
        ids = set(_ID.findall(text))
        label = ids.pop() if len(ids) == 1 else ""
        beside = self.leading_id(text) not in ("", label)  # "B) Paris (C)"
        return "" if label not in self.text_of or beside or _OPEN.search(text) else label


def _supposed(text: str, statement: re.Match[str]) -> bool:
    """What precedes the statement makes it a condition, a question or a denial."""
    return bool(_SUPPOSED.search(text[max(0, statement.start() - 60) : statement.start()]))


def _bare(text: str) -> str:
    """In lower case, without marks, and without punctuation at its ends."""
    return plain(text).strip(_AROUND).lower()


def _after(said: str, text: str) -> str:
    """``said`` without ``text`` (in lower case) where it begins with it."""
    return said[len(text) :] if said.lower().startswith(text) else said


def _begins(said: str, text: str) -> bool:
    """``said`` is ``text``, or begins with it and goes on with another clause."""
    after = said.removeprefix(text)
    return said.startswith(text) and bool(
        re.match(r"$|[.,;:!?)](?!\d)| (?:because|since|as|or|and)\b| [-–(]", after)
    )
