"""A table as plain cells, for Markdown, HTML and W&B."""

from __future__ import annotations

from dataclasses import dataclass

from orca.evaluation.statistics import Interval

Cell = str | int | float | Interval | None
"""What a cell shows; a float is rounded already, None is unknown."""

UNKNOWN = "–"


@dataclass(frozen=True)
class Table:
    """A table that does not know how it will be shown."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def texts(self) -> list[list[str]]:
        """Rows of the cells as they are read; they are not escaped for HTML."""
        return [[_text(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """Title as a heading of level 3, table, notes."""
        rules = ["---" if text else "---:" for text in self.text_columns()]
        lines = [f"| {' | '.join(map(_escaped, row))} |" for row in (self.head, *self.texts())]
        lines.insert(1, f"| {' | '.join(rules)} |")
        return "\n\n".join([f"### {self.title}", "\n".join(lines), *self.notes])

    def text_columns(self) -> list[bool]:
        """Which columns hold text and not numbers."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.head))]
        return [not column or any(isinstance(one, str) for one in column) for column in columns]

    def values(self) -> tuple[list[str], list[list[str | int | float | None]]]:
        """Head and rows of plain values; an interval takes three columns."""
        wide = [
            any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.head))
        ]
        head: list[str] = []
        for name, three in zip(self.head, wide, strict=True):
            head += [name, f"{name}, low", f"{name}, high"] if three else [name]
        rows = []
        for row in self.rows:
            values: list[str | int | float | None] = []
            for cell, three in zip(row, wide, strict=True):
                if isinstance(cell, Interval):
                    values += [cell.value, cell.low, cell.high]
                else:
                    values += [cell, None, None] if three else [cell]
            rows.append(values)
        return head, rows


def _text(cell: Cell) -> str:
    if cell is None:
        return UNKNOWN
    if isinstance(cell, Interval):
        return f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
