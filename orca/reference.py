"""Writes docs/configuration.md, the reference of every option, from what the program itself reads.

    python -m orca.reference

A meaning is the comment beside an option in `conf/`, else the line under ``Args:`` of the
constructor that gets it; types are the constructor's hints. Nothing is written down twice, and
`tests/docs/test_configuration.py` fails when the page is old or an option has no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orca.config import CONF_DIR
from orca.reference_files import ConfFile, Entry, Target, conf_files

PAGE = CONF_DIR.parent / "docs" / "configuration.md"
MOST_VALUES = 3
"""Options with more different defaults than these say "see the files"."""

INTRODUCTION = """# Configuration

Every option of every program that reads `conf/`. This page is made from the files there and from
the constructors that get the options; after a change, `python -m orca.reference` writes it again.

A **key** is set by `key=value`, a **group** by the name of one of its files (`model=tiny`), an
option of a group by its path (`model.lr=1e-4`). `+key=value` adds an option that no file has,
`~key` leaves a member out, `python train.py --help` prints what is in force, and a mistyped option
fails with the nearest that exists. A default of `???` is none: the option must be given. `${…}`
takes the value of another option. Where files differ, their names stand behind the default.
"""


class Row:
    """One option in one table, with its default in every file that has it."""

    def __init__(self, option: str, kind: str, meaning: str, by_program: bool = False) -> None:
        self.option, self.kind, self.meaning = option, kind, meaning
        self.needs_meaning = not by_program
        self.defaults: list[tuple[str, str]] = []  # (value, file)

    def default(self, files: list[str]) -> str:
        """The cell of the default: one value, or which file has which."""
        owners: dict[str, list[str]] = {}
        for value, file in self.defaults:
            if file not in owners.setdefault(value, []):
                owners[value].append(file)
        if len(owners) > MOST_VALUES:
            return "see the files"
        everywhere = {file for _, file in self.defaults} == set(files)
        if len(owners) == 1 and everywhere:
            return code(next(iter(owners)))
        return ", ".join(
            f"{code(value)} ({', '.join(names)})".strip() for value, names in owners.items()
        )


def code(text: str) -> str:
    """A span of code that a cell of a table can hold."""
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def prose(text: str) -> str:
    """A comment or docstring as Markdown in a cell."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    for python, plain in (("None", "null"), ("False", "false"), ("True", "true")):
        text = re.sub(rf"\b{python}\b", plain, text)
    text = re.sub(r"\bdocs/(\w+)\.md\b", r"[\1](\1.md)", text)
    parts = re.split(r"(`[^`]*`|\[\w+\]\([^)]*\))", text)
    parts[::2] = [re.sub(r"[<*]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|").strip()


def sentence(text: str) -> str:
    """A comment as a sentence of its own."""
    return prose(text[:1].upper() + text[1:]).rstrip(".") + "." if text else ""


def rows(file: ConfFile, prefix: str, shared_name: str | None) -> dict[tuple[str, str], Row]:
    """The options of one file by (path, class), in its order."""
    found: dict[tuple[str, str], Row] = {}
    for owner, entry, option, kind, meaning in _walk(file, file.tree, prefix, shared_name):
        row = found.setdefault((option, owner), Row(option, kind, meaning, file.external))
        row.meaning = row.meaning or meaning
        row.defaults.append((entry.text, file.name))
    return found


def _walk(
    file: ConfFile, tree: dict[str, Entry], prefix: str, shared_name: str | None = None
) -> Iterator[tuple[str, Entry, str, str, str]]:
    """(class, entry, path, type, meaning) of everything below ``prefix``."""
    target = Target.of(tree)
    path = f"{prefix}." if prefix else ""
    for key, entry in tree.items():
        if key.startswith("_"):
            continue
        option = path + (shared_name or key)
        meaning = entry.comment or target.meaning(key)
        kind = target.kind(key) or entry.kind
        if entry.group is not None:
            link = f"[{entry.group}](#{slug(entry.group)})"
            yield target.name, entry, option, link, meaning or f"a member of group `{entry.group}`"
        elif entry.children is None or not entry.children:
            yield target.name, entry, option, code(kind), meaning
        elif Target.of(entry.children).name:
            own = Target.of(entry.children)
            yield own.name, Entry("", ""), option, own.link(), meaning or own.summary
            yield from _walk(file, entry.children, option)
        elif any(Target.of(c.children or {}).name for c in entry.children.values()):
            yield target.name, Entry("", ""), option, code(kind), meaning
            yield from _walk(file, entry.children, option, "<name>" if target.name else None)
        elif target.name:  # a mapping that the constructor takes as it is
            comments = [f"`{k}`: {c.comment}" for k, c in entry.children.items() if c.comment]
            yield target.name, entry, option, code(kind), ". ".join([meaning, *comments])
        else:
            yield target.name, Entry("", ""), option, "", meaning
            yield from _walk(file, entry.children, option)
    for key, default in target.others(tree):
        yield (
            target.name,
            Entry(default, ""),
            f"+{path}{key}",
            code(target.kind(key)),
            (target.meaning(key)),
        )


def _join(known: Row, row: Row) -> None:
    if known is not row:
        known.meaning = known.meaning or row.meaning
        known.defaults += row.defaults


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    body = [head, tuple("---" for _ in head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in body) + "\n"


def option_table(found: list[Row], files: list[str]) -> str:
    """The options in the order of the files."""
    lines = [(code(r.option), r.kind, r.default(files), prose(r.meaning)) for r in found]
    return table(("option", "type", "default", "meaning"), lines) if lines else ""


class Reference:
    """Everything under ``conf``, ready to be written as a page."""

    def __init__(self, conf: Path = CONF_DIR) -> None:
        files = conf_files(conf)
        self.programs = [f for f in files if not f.group]
        self.groups: dict[str, list[ConfFile]] = {}
        for file in files:
            if file.group:
                self.groups.setdefault(file.group, []).append(file)
        self.uses = {
            group: list(dict.fromkeys(d for f in files for d in f.defaults if d.group == group))
            for group in self.groups
        }

    def description(self, group: str) -> str:
        """What a group is: the comment where it stands in a list of defaults."""
        if group.startswith("hydra/"):
            return "Hydra's own: how the jobs of a sweep are started or chosen."
        return next((use.comment for use in self.uses[group] if use.comment), "")

    def places(self, group: str) -> list[str]:
        """Where a group's options stand; what differs between several is written ``<name>``."""
        first = self.groups[group][0].package
        if first is not None:
            return [first]
        merged: list[list[str]] = []
        for use in self.uses[group]:
            parts = use.package.split(".")
            for known in merged:
                differ = [i for i, (a, b) in enumerate(zip(known, parts, strict=False)) if a != b]
                if len(known) == len(parts) and len(differ) <= 1:
                    for index in differ:
                        known[index] = "<name>"
                    break
            else:
                merged.append(parts)
        return [".".join(parts) for parts in merged] or [group.replace("/", ".")]

    def group_rows(self, group: str) -> list[Row]:
        """Options of a group, those of the same class in several files joined."""
        files = self.groups[group]
        targets = {Target.of(e.children or {}).name for f in files for e in f.tree.values()}
        names = {key for f in files for key in f.tree}
        shared = "<stage>" if len(targets - {""}) == 1 and len(targets) == 1 < len(names) else None
        by_class: dict[tuple[str, str], Row] = {}
        for file in files:
            package = file.package if file.package is not None else self.places(group)[0]
            for key, row in rows(file, package, shared).items():
                _join(by_class.setdefault(key, row), row)
        for option, owner in list(by_class):  # an argument that only some of the files give
            if option.startswith("+") and (option[1:], owner) in by_class:
                _join(by_class[option[1:], owner], by_class.pop((option, owner)))
        joined: dict[tuple[str, str, str], Row] = {}
        for row in by_class.values():
            _join(joined.setdefault((row.option, row.kind, row.meaning), row), row)
        return list(joined.values())

    def program_rows(self, file: ConfFile) -> list[Row]:
        """Keys of a program that are in no group."""
        own = {k: e for k, e in file.tree.items() if k not in self.groups and k != "hydra"}
        return list(rows(replace(file, tree=own), "", None).values())

    def page(self) -> str:
        """The whole page."""
        programs = []
        for f in self.programs:
            link = f"[`{f.command}`](#{slug(f.heading)})"
            programs.append((link, f"[{f.name}.yaml](../conf/{f.name}.yaml)", prose(f.about)))
        parts = [INTRODUCTION, table(("program", "file", "what it does"), programs)]
        groups = ", ".join(f"[{group}](#{slug(group)})" for group in self.groups)
        parts.append(f"Groups: {groups}.\n")
        parts += [self._program(file) for file in self.programs]
        parts += [self._group(group) for group in self.groups]
        return "\n".join(parts)

    def _program(self, file: ConfFile) -> str:
        parts = [f"## {file.heading}\n", *_examples(file)]
        if parents := [d.option for d in file.defaults if not d.group]:
            parts.append(f"Has every group and key of {', '.join(parents)}, and:\n")
        groups = []
        for d in file.defaults:
            if d.group in self.groups and not d.override:
                what = prose(d.comment or self.description(d.group))
                groups.append((f"[`{d.group}`](#{slug(d.group)})", code(d.option), what))
        if groups:
            parts.append(table(("group", "default", "what it chooses"), groups))
        parts.append(option_table(self.program_rows(file), [file.name]))
        return "\n".join(parts)

    def _group(self, group: str) -> str:
        files = self.groups[group]
        others = self.places(group)[1:]
        parts = [f"## {group}\n", f"{sentence(self.description(group))}\n"]
        if others:
            parts.append(f"Also at {', '.join(code(other) for other in others)}.\n")
        global_ = files[0].package == ""
        lines = []
        for file in files:
            link = f"[`{file.name}`](../conf/{group}/{file.name}.yaml)"
            example = " ".join(code(one.strip()) for one in file.examples)
            what = f"{prose(file.about)} {example}".strip()
            lines.append((link, what, *((code(file.sets()),) if global_ else ())))
        head = (f"`{group}=`", "what it is", *(("what it sets",) if global_ else ()))
        parts.append(table(head, lines))
        if not global_:
            parts.append(option_table(self.group_rows(group), [f.name for f in files]))
        return "\n".join(part for part in parts if part.strip())


def _examples(file: ConfFile) -> list[str]:
    if not file.examples:
        return []
    return ["```text\n" + "\n".join(one.strip() for one in file.examples) + "\n```\n"]


def main() -> None:
    """Write the page."""
    PAGE.write_text(Reference().page(), encoding="utf-8")
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}: written")


if __name__ == "__main__":
    main()
