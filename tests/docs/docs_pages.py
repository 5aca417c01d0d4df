"""The pages of the documentation as data: fenced blocks, commands, links, anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("python", "make", "pip", "pytest", "conda", "source")
"""How a command begins that stands in a line of text."""


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its opening fence."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command as a shell would split it, with where it stands."""

    where: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def __str__(self) -> str:
        return f"{self.where} {self.text}"


@cache
def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        opened: tuple[int, str] | None = None
        lines: list[str] = []
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.lstrip().startswith("```"):
                lines.append(line)
            elif opened is None:
                opened, lines = (number, line.strip().removeprefix("```")), []
            else:
                found.append(Block(page, *opened, "\n".join(lines)))
                opened = None
        assert opened is None, f"{page.name}: a block is not closed"
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)


def _calls(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Programs of a line, without variables before them and without where their output goes."""
    ends = [i for i, word in enumerate(words) if word in ("|", "&", "&&", ">", "2>&1")]
    for begin, end in zip([0, *(i + 1 for i in ends)], [*ends, len(words)], strict=True):
        own = words[begin:end]
        while own and re.match(r"[A-Z_]+=", own[0]):
            own = own[1:]
        if own and (begin == 0 or words[begin - 1] in ("|", "&&")):
            yield tuple(own)


@cache
def commands() -> list[Command]:
    """Every line of the bash blocks, and every code span of the text that is a command."""
    found = []
    for block in blocks():
        if block.language == "bash":
            lines = [shlex.split(line, comments=True) for line in _command_lines(block.text)]
            found += [Command(str(block), call) for words in lines for call in _calls(words)]
    for page in PAGES:
        if page.name == "configuration.md":
            continue  # made from comments of conf/, whose spans are parts of commands too
        for span in re.findall(r"`([^`\n]+)`", prose(page)):
            words = shlex.split(span) if span.split(" ")[0] in COMMANDS and " " in span else []
            found += [Command(page.name, call) for call in _calls(words)]
    return found


def _command_lines(text: str) -> list[str]:
    """Lines of a block; one that ends in a backslash or within quotes goes on in the next."""
    found, begun = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        begun = f"{begun}\n{line}" if begun else line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            continue
        found.append(begun)
        begun = ""
    assert not begun, f"quotes that do not end: {begun}"
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading, without the numbers of repeated ones."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?)\s*$", prose(page), re.M):
        name, count = slug(heading), 0
        while (f"{name}-{count}" if count else name) in found:
            count += 1
        found.add(f"{name}-{count}" if count else name)
    return found


def links(page: Path) -> list[str]:
    """Targets of links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))
