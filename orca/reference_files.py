"""The files of `conf/` as trees of options with their comments, and the constructors behind them.

The comments are read by position: PyYAML says where every value ends, and the rest of that line is
its comment.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object

ROOT = Path(__file__).parent.parent
LONGEST = 60
"""Characters of a mapping or list that are shown of a default."""


@dataclass
class Entry:
    """One key of a file: its value as it is written, its comment, its members."""

    text: str
    comment: str
    children: dict[str, Entry] | None = None
    kind: str = ""
    group: str | None = None
    """The configuration group that fills this key, where one does."""


@dataclass(frozen=True)
class Default:
    """An entry of a list of defaults; ``group`` is empty for a file of the same group."""

    group: str
    package: str
    option: str
    override: bool
    comment: str


@dataclass
class ConfFile:
    """One YAML file; ``package`` is what its ``@package`` line says, "" for ``_global_``."""

    group: str
    name: str
    header: list[str]
    package: str | None
    defaults: list[Default]
    tree: dict[str, Entry] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """The comment at the head, else what the class says of itself."""
        text = " ".join(line for line in self.header if not line.startswith(" ")).rstrip(":")
        if not self.group:
            text = text.partition("…: ")[2]
        members = [e.children for e in self.tree.values() if e.children]
        only = members[0] if len(members) == 1 else self.tree
        return text or Target.of(self.tree).summary or Target.of(only).summary

    @property
    def examples(self) -> list[str]:
        """Indented lines of the head: commands."""
        return [line for line in self.header if line.startswith(" ")]

    @property
    def command(self) -> str:
        """How a program is called (``python train.py``)."""
        return self.header[0].partition(" …")[0] if self.header else self.name

    @property
    def heading(self) -> str:
        """Of a program's section."""
        return self.command.removeprefix("python ").removeprefix("-m ")

    @property
    def external(self) -> bool:
        """Whether another package's constructor gets the options, and explains them."""
        return self.group.startswith("hydra/")

    def sets(self) -> str:
        """What a file of package ``_global_`` changes, as one would type it."""
        chosen = [f"{d.group or self.group}={d.option}" for d in self.defaults]
        return " ".join([*chosen, *_overrides(self.tree, "")])


def _overrides(tree: dict[str, Entry], prefix: str) -> Iterator[str]:
    for key, entry in tree.items():
        if entry.children:
            yield from _overrides(entry.children, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={entry.text}"


class Target:
    """The constructor that gets the options of a mapping; nameless where there is none."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.summary = ""
        self._parameters: dict[str, inspect.Parameter] = {}
        self._meanings: dict[str, str] = {}
        self._object: Any = None
        if name.startswith("orca."):
            self._object = get_object(name)
            self._parameters = dict(inspect.signature(self._object).parameters)
            text = inspect.cleandoc(self._object.__doc__ or "")
            self.summary = " ".join(text.split("\n\n")[0].split())
            self._meanings = arguments(text)

    @classmethod
    def of(cls, tree: dict[str, Entry]) -> Target:
        """Of the mapping's ``_target_``."""
        return cls(tree["_target_"].text) if "_target_" in tree else cls()

    def meaning(self, key: str) -> str:
        """What the docstring says under ``Args:``."""
        return self._meanings.get(key, "")

    def kind(self, key: str) -> str:
        """The type hint."""
        parameter = self._parameters.get(key)
        if parameter is None or parameter.annotation is parameter.empty:
            return ""
        literal = re.sub(r"Literal\[(.*?)\]", r"\1", str(parameter.annotation))
        return literal.replace("'", "").replace("collections.abc.", "").replace("Any", "any")

    def others(self, tree: dict[str, Entry]) -> Iterator[tuple[str, str]]:
        """(name, default) of the arguments that no file gives and that may be added."""
        for name, parameter in self._parameters.items():
            default = parameter.default
            if name == "name" or name in tree or default is parameter.empty:
                continue  # a check's or gate's name is its key
            if repr(default) == "<factory>":
                continue
            plain = list(default) if isinstance(default, tuple) else default
            yield name, yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()

    def link(self) -> str:
        """The class, linked to its file."""
        file = inspect.getsourcefile(self._object) if self._object else None
        short = self.name.rpartition(".")[2]
        return f"[{short}](../{Path(file).relative_to(ROOT)})" if file else f"`{self.name}`"


def arguments(docstring: str) -> dict[str, str]:
    """Parameter → what the section ``Args:`` says of it (``a, b: …`` speaks of both)."""
    section = re.search(r"^Args:\n((?:(?: +.*)?\n?)*)", docstring, re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (section[1] if section else "").splitlines():
        start = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2].strip())
        elif line.strip():
            for name in names:
                found[name] += " " + line.strip()
    return found


def conf_files(conf: Path) -> list[ConfFile]:
    """Programs first, then groups by name; files that others extend are merged into those."""
    raw = {path: _read(conf, path) for path in sorted(conf.rglob("*.yaml"))}
    for path, file in raw.items():
        for default in file.defaults:
            if default.group and file.group and not default.override:
                _include(file, default)
            elif not default.group and file.group and default.option != "_self_":
                parent = raw[path.parent / f"{default.option}.yaml"]
                file.tree = _merge(parent.tree, file.tree)
    files = [file for file in raw.values() if file.name != "base"]
    return sorted(files, key=lambda file: (bool(file.group), file.group))


def _read(conf: Path, path: Path) -> ConfFile:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" "))
    package = next((h.split()[1] for h in head if h.startswith("@package")), None)
    group = str(path.parent.relative_to(conf)) if path.parent != conf else ""
    root = yaml.compose(text)
    tree = _tree(root, lines) if isinstance(root, yaml.MappingNode) else {}
    file = ConfFile(
        group,
        path.stem,
        [h for h in head if not h.startswith("@package")],
        "" if package == "_global_" else package,
        _defaults(root, lines, group) if "defaults" in tree else [],
        tree,
    )
    tree.pop("defaults", None)
    return file


def _comment(lines: list[str], key: yaml.Node, value: yaml.Node) -> str:
    block = not isinstance(value, yaml.ScalarNode) and not value.flow_style
    mark = key.end_mark if block else value.end_mark
    if mark is None or mark.line >= len(lines):
        return ""
    found = re.match(r":?\s*# ?(.*)", lines[mark.line][mark.column :])
    return found[1].strip() if found else ""


def _tree(node: yaml.MappingNode, lines: list[str]) -> dict[str, Entry]:
    tree = {}
    for key, value in node.value:
        plain = _plain(value)
        kind = "" if plain is None or plain == "???" else type(plain).__name__
        children = _tree(value, lines) if isinstance(value, yaml.MappingNode) else None
        tree[key.value] = Entry(_text(value), _comment(lines, key, value), children, kind)
    return tree


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def _text(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return node.value.replace("\n", "\\n") or "''"
    flow = yaml.safe_dump(_plain(node), default_flow_style=True, width=10_000, sort_keys=False)
    return flow.strip() if len(flow) <= LONGEST else flow[:LONGEST].strip() + "…"


def _defaults(root: yaml.MappingNode, lines: list[str], group: str) -> list[Default]:
    entries = next(value for key, value in root.value if key.value == "defaults").value
    found = []
    for entry in entries:
        if isinstance(entry, yaml.ScalarNode):
            if entry.value != "_self_":
                found.append(Default("", "", entry.value, False, ""))
            continue
        key, value = entry.value[0]
        name, _, at = key.value.removeprefix("override ").partition("@")
        relative = not name.startswith("/") and group and not name.startswith("hydra/")
        full = f"{group}/{name}" if relative else name.removeprefix("/")
        below = group.replace("/", ".") + "." if group else ""
        package = below + at if at else full.replace("/", ".")
        override = key.value.startswith("override ")
        comment = _comment(lines, key, value)
        found.append(Default(full, package, _text(value), override, comment))
    return found


def _include(file: ConfFile, default: Default) -> None:
    """Mark the key that another group fills."""
    *above, key = default.package.removeprefix(file.group.replace("/", ".") + ".").split(".")
    tree = file.tree
    for part in above:
        tree = tree.setdefault(part, Entry("", "", {})).children or {}
    known = tree.get(key)
    changes = f", {known.text}" if known and known.children else ""
    tree[key] = Entry(default.option + changes, known.comment if known else "", group=default.group)


def _merge(below: dict[str, Entry], above: dict[str, Entry]) -> dict[str, Entry]:
    merged = dict(below)
    for key, entry in above.items():
        old = merged.get(key)
        if old is None:
            merged[key] = entry
        else:
            members = entry.children
            if old.children and members is not None:
                members = _merge(old.children, members)
            comment = entry.comment or old.comment
            merged[key] = Entry(entry.text, comment, members, entry.kind, entry.group)
    return merged
