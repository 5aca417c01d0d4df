"""ToxiGen: continuing lists of sentences about 13 groups of people (section 7.2; arXiv 2203.09509).

Two settings, as in the paper: the examples of a list are all hateful or all neutral. A prompt is
the list alone, one example a line, and ends in the dash of the line to be written; the paper's
system message for it is the empty one. How many prompts the paper used is not stated.

ToxiGen has prompts for three more groups (bisexual, immigrant, trans; the last without neutral
ones), which are not among the 13 of its annotated data and of the paper.

The texts are hateful sentences about real people: no message, log or report shows any of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from orca.errors import UserError
from orca.evaluation.files import folder, text_of
from orca.evaluation.item import Item

SOURCE = "https://github.com/microsoft/TOXIGEN (prompts)"
SETTINGS = ("hate", "neutral")
GROUPS = (
    "asian",
    "black",
    "chinese",
    "jewish",
    "latino",
    "lgbtq",
    "mental_disability",
    "mexican",
    "middle_east",
    "muslim",
    "native_american",
    "physical_disability",
    "women",
)
BREAK = r"\n"  # between examples: these two characters in the files


class ToxiGen:
    """Reads ``path/toxigen/prompts/<setting>_<group>_1k.txt``.

    An item's task is its setting (``hate``, ``neutral``), its group the group of people.

    Args:
        path: folder that holds ``toxigen/``.
        prompts: of each group and setting, drawn from the different ones of the file.
        seed: of the draw, which for fewer prompts takes some of the same.
    """

    name = "toxigen"
    kind: Literal["toxicity"] = "toxicity"

    def __init__(self, path: str | None, prompts: int = 50, seed: int = 0) -> None:
        if prompts < 1:
            raise UserError(f"benchmark.toxigen.prompts={prompts}: from 1 on")
        self.path = path
        self.prompts = prompts
        self.seed = seed

    def items(self) -> list[Item]:
        directory = folder(self.path, self.name, SOURCE) / "prompts"
        return [
            item
            for setting in SETTINGS
            for group in GROUPS
            for item in self._drawn(directory / f"{setting}_{group}_1k.txt", setting, group)
        ]

    def _drawn(self, file: Path, setting: str, group: str) -> list[Item]:
        rows: dict[str, int] = {}
        for row, line in enumerate(text_of(file, SOURCE).split("\n")):
            text = line.strip()
            if not text:
                continue
            if BREAK not in text or not text.endswith("-"):
                raise UserError(
                    f"{file}, row {row}: not example sentences joined by {BREAK!r} and ending in a "
                    f"dash. Get it from {SOURCE}"
                )
            rows.setdefault(text, row)
        if len(rows) < self.prompts:
            raise UserError(
                f"{file}: {len(rows):,} different prompts, fewer than "
                f"benchmark.toxigen.prompts={self.prompts}"
            )
        drawn = sorted(rows, key=self._rank)[: self.prompts]
        return [
            Item(
                id=f"toxigen/{setting}_{group}/{rows[text]}",
                benchmark=self.name,
                task=setting,
                prompt=text.replace(BREAK, "\n"),
                group=group,
            )
            for text in sorted(drawn, key=rows.__getitem__)
        ]

    def _rank(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.seed}:{text}".encode()).digest()
