"""promptsource's templates over raw rows: the way P3 (T0's data) was made.

A template is a Jinja text ``query ||| target`` over the columns of a row. It is rendered by
promptsource's rules, but in Jinja's sandbox, with a name that no row has as an error rather than
as an empty text, and with ``choice`` drawn from a hash of the row: the same bytes every time.
"""

from __future__ import annotations

import glob
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import meta, nodes
from jinja2.sandbox import SandboxedEnvironment, SecurityError

from orca.errors import UserError
from orca.mixture.pool import NOT_SUITED, Candidate, PoolFile, matching_files, rendered
from orca.mixture.rendering import bad_row, checked
from orca.traces.files import open_rows
from orca.traces.trace import BadRow

VERSION = 2
"""Of the rendering; another one renders cached files again."""

SEPARATOR = "|||"
SPLIT_AT = "\0|||\0"  # stands for the template's separator: data that has ||| stays whole


@dataclass(frozen=True, slots=True)
class RawSet:
    """Raw rows of one dataset and the templates that ask about them.

    Args:
        files: patterns of the row files (any that ``orca.traces.files.open_rows`` reads).
        templates: the dataset's ``templates.yaml``.
        pattern: for rows that are one text (column ``sentence``): a regular expression over the
            whole text whose named groups are the columns that the templates ask for.
        labels: for rows whose ``label`` is a text: the texts in the order of the templates'
            classes, so that the first becomes 0.
    """

    files: str | Sequence[str]
    templates: str
    pattern: str | None = None
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise UserError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        if not all(isinstance(label, str) for label in self.labels or ()):
            raise UserError(
                f"labels are texts: put True, False and numbers of {self.labels} in quotes"
            )

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's columns as the templates name them; raises :class:`BadRow`."""
        fields = dict(row)
        if self.pattern is not None:
            match = re.fullmatch(self.pattern, _text(row, "sentence"))
            if not match:
                raise BadRow("no_match", "field 'sentence' does not match the dataset's pattern")
            fields |= match.groupdict(default="")
        if self.labels is not None:
            label = _text(row, "label")
            if label not in self.labels:
                raise BadRow("unknown_label", f"label {label!r} is none of {list(self.labels)}")
            fields["label"] = list(self.labels).index(label)
        return fields


class Promptsource:
    """Candidates of raw datasets: every English template over every row.

    A template that leaves query or target empty says by this that it does not suit the row
    (promptsource's convention): there is no candidate then, and the row is counted as
    ``not_suited``. The same goes for rows whose ``label`` is -1, which is how hidden labels are
    published.

    Args:
        datasets: the raw sets by the name that becomes their task.
    """

    def __init__(self, datasets: Mapping[str, RawSet]) -> None:
        self.datasets = datasets

    def open(self, root: str | None) -> list[PoolFile]:
        """See :class:`orca.mixture.pool.Source`.

        Raises:
            UserError: a template cannot be used; the message names it.
        """
        pool = []
        for task, raw in self.datasets.items():
            ((_, templates_file),) = matching_files(raw.templates, root)
            templates = read_templates(templates_file)
            settings = repr(("promptsource", VERSION, jinja2.__version__, task, raw))
            for name, path in matching_files(raw.files, root):
                render = _Render(task, raw, path, templates)
                pool.append(rendered(name, [path, templates_file], settings, render))
        return sorted(pool, key=lambda file: file.name)


@dataclass(frozen=True, slots=True)
class _Render:
    task: str
    raw: RawSet
    path: Path
    templates: Sequence[PromptTemplate]

    def __call__(self) -> Iterator[Candidate]:
        for rows in open_rows(glob.escape(str(self.path))):
            for number in range(len(rows)):
                line = rows.row_number(number)
                try:
                    fields = self.raw.fields(rows[number])
                except BadRow as error:
                    yield bad_row(self.task, line, error.reason, error.detail)
                    continue
                if fields.get("label") == -1:
                    yield bad_row(self.task, line, NOT_SUITED, "the row has no label")
                else:
                    yield from self._row(fields, line)

    def _row(self, fields: Mapping[str, Any], line: int) -> Iterator[Candidate]:
        for template in self.templates:
            name, kind = template.name, template.template_type
            try:
                query, target = template.render(fields, f"{self.task}/{line}")
            except BadRow as error:
                yield bad_row(self.task, line, error.reason, error.detail, name)
                continue
            if query and target:
                yield checked(Candidate(self.task, query, (target,), line, name, kind))
            else:
                detail = f"template {name!r} gives no text for it"
                yield bad_row(self.task, line, NOT_SUITED, detail, name)


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One template of a ``templates.yaml``, compiled.

    Args:
        origin: its file and name, for messages.
        template_type: ``zs_opt`` where the query shows the answer choices, else ``zs_noopt``.
        text: query and target, with :data:`SPLIT_AT` between them.
        choices: the answer choices, with :data:`SPLIT_AT` between them.
    """

    name: str
    origin: str
    template_type: str
    text: jinja2.Template
    choices: jinja2.Template | None

    def render(self, fields: Mapping[str, Any], seed: str) -> tuple[str, str]:
        """Query and target for a row; either may be empty.

        Args:
            fields: the row's columns; they are data, whatever is in them.
            seed: what the filter ``choice`` draws with (and the template's name).

        Raises:
            BadRow: the row lacks a field, or its values are not what the template expects.
            UserError: the template does what the sandbox forbids.
        """
        context = {**fields, "_random": random.Random(f"{seed}/{self.name}")}
        try:
            choices = self.choices and self.choices.render(context).split(SPLIT_AT)
            context["answer_choices"] = choices and [one.strip() for one in choices]
            parts = self.text.render(context).split(SPLIT_AT)
        except SecurityError as error:
            raise UserError(f"{self.origin}: is not allowed in a template ({error})") from None
        except jinja2.UndefinedError as error:
            raise BadRow("missing_field", f"template {self.name!r}: {error.message}") from None
        except Exception as error:  # filters meet values of other types than their author saw
            detail = f"template {self.name!r} fails: {type(error).__name__}: {error}"
            raise BadRow("template_error", detail) from None
        if len(parts) > 2:
            raise BadRow("template_error", f"template {self.name!r} gives {len(parts)} texts")
        query, target = (*parts, "")[:2]
        return query.strip(), target.strip()


def read_templates(path: Path) -> list[PromptTemplate]:
    """The English templates of a ``templates.yaml``, sorted by name.

    Raises:
        UserError: the file is no template file, a template is broken or uses what is not offered
            here, or none is English.
    """
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), _Loader)["templates"].values()
        english = [one for one in entries if one["metadata"]["languages"] == ["en"]]
        templates = [_compile(path, one) for one in english]
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({error})") from None
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no file of promptsource templates ({error!r})") from None
    except (MemoryError, RecursionError) as error:
        raise UserError(f"{path}: templates are too large or too deep ({error!r})") from None
    if not templates:
        raise UserError(f"{path}: no template has languages [en]")
    names = Counter(one.name for one in templates)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{path}: two templates are called {twice[0]!r}")
    return sorted(templates, key=lambda one: one.name)


def _compile(path: Path, entry: Mapping[str, Any]) -> PromptTemplate:
    origin = f"{path}: template {entry['name']!r}"
    if entry["jinja"].count(SEPARATOR) != 1:
        raise UserError(f"{origin}: {SEPARATOR} must stand once, between query and target")

    def compiled(source: str) -> jinja2.Template:
        source = source.replace(SEPARATOR, SPLIT_AT)
        try:
            tree = ENVIRONMENT.parse(source)
            template = ENVIRONMENT.from_string(source)
        except jinja2.TemplateError as error:  # also filters and tests that are not offered
            raise UserError(f"{origin}: cannot be used ({error.message})") from None
        called = [call.node for call in tree.find_all(nodes.Call)]
        names = {node.name for node in called if isinstance(node, nodes.Name)}
        unknown = names & meta.find_undeclared_variables(tree)
        if unknown:
            raise UserError(f"{origin}: calls {min(unknown)}(), which is not offered here")
        return template

    return PromptTemplate(
        name=entry["name"],
        origin=origin,
        template_type="zs_opt" if entry["metadata"]["choices_in_prompt"] else "zs_noopt",
        text=compiled(entry["jinja"]),
        choices=compiled(entry["answer_choices"]) if entry["answer_choices"] else None,
    )


@jinja2.pass_context
def _choice(context: jinja2.runtime.Context, options: Sequence[Any]) -> Any:
    return context["_random"].choice(options)


def _most_frequent(items: Iterable[Any]) -> list[Any]:
    counts = Counter(items)
    return [item for item, count in counts.items() if count == max(counts.values())]


def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.filters |= {"choice": _choice, "most_frequent": _most_frequent}
    environment.globals["zip"] = zip
    del environment.filters["random"], environment.globals["lipsum"]  # the global random state
    return environment


ENVIRONMENT = _environment()


class _Loader(yaml.SafeLoader):
    """Reads promptsource's own tags as plain mappings."""


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise BadRow("missing_field", f"no field {name!r}")
    if not isinstance(row[name], str):
        raise BadRow("wrong_type", f"field {name!r} is {type(row[name]).__name__}, not text")
    return row[name]
