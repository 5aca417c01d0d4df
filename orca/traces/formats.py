"""Readers: one row of a public data format → one :class:`Trace`.

A reader is a function of a row (a mapping of field names to values) and the :class:`RowOrigin`
that supplies what the row does not say. It raises :class:`BadRow` for a row it cannot use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orca.traces.trace import BadRow, Trace


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """What the source knows about a row: a default id, the teacher, sub-collection and task."""

    id: str
    teacher: str = ""
    sub_collection: str = ""
    task: str = ""


Row = Mapping[str, Any]
Reader = Callable[[Row, RowOrigin], Trace]


def read_trace(row: Row, origin: RowOrigin) -> Trace:
    """This project's own record: the fields of :class:`Trace` by name."""
    difficulty = row.get("difficulty")
    if difficulty is not None and not isinstance(difficulty, (int, float)):
        raise BadRow("wrong_type", f"field 'difficulty' is {_kind(difficulty)}, not a number")
    return Trace(
        id=_optional(row, "id") or origin.id,
        system_message=_optional(row, "system_message"),
        query=_text(row, "query"),
        response=_response(row, "response"),
        teacher=_optional(row, "teacher") or origin.teacher,
        sub_collection=_optional(row, "sub_collection") or origin.sub_collection,
        task=_optional(row, "task") or origin.task,
        gold_answer=_optional(row, "gold_answer") or None,
        difficulty=None if difficulty is None else float(difficulty),
    )


def read_openorca(row: Row, origin: RowOrigin) -> Trace:
    """OpenOrca rows: ``id, system_prompt, question, response``; the id's prefix names the
    sub-collection (``niv``, ``t0``, ``cot`` or ``flan``)."""
    identity = _optional(row, "id") or origin.id
    prefix = identity.split(".", 1)[0]
    known = {"niv": "niv2", "t0": "t0", "cot": "cot", "flan": "flan2021"}
    return Trace(
        id=identity,
        system_message=_optional(row, "system_prompt"),
        query=_text(row, "question"),
        response=_response(row, "response"),
        teacher=origin.teacher,
        sub_collection=known.get(prefix, origin.sub_collection),
        task=origin.task,
    )


def read_chat(row: Row, origin: RowOrigin) -> Trace:
    """Chat rows: ``messages`` (role, content) or ``conversations`` (from, value), one exchange."""
    name = "messages" if "messages" in row else "conversations"
    messages = row.get(name)
    if messages is None:
        raise BadRow("missing_field", f"no field 'messages' or 'conversations'; {_has(row)}")
    if not isinstance(messages, (list, tuple)) or not all(
        isinstance(message, Mapping) for message in messages
    ):
        raise BadRow("wrong_type", f"field {name!r} is not a list of messages")
    by_role: dict[str, str] = {}
    roles = []
    for message in messages:
        role = str(message.get("role", message.get("from")))
        role = {"human": "user", "gpt": "assistant"}.get(role, role)
        content = message.get("content", message.get("value"))
        if not isinstance(content, str):
            raise BadRow("wrong_type", f"the {role} message's text is {_kind(content)}, not text")
        by_role[role] = content
        roles.append(role)
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise BadRow(
            "not_one_exchange",
            f"roles are {roles}; a trace is an optional system message, one user and one "
            "assistant message",
        )
    return Trace(
        id=_optional(row, "id") or origin.id,
        system_message=by_role.get("system", ""),
        query=_text(by_role, "user"),
        response=_response(by_role, "assistant"),
        teacher=origin.teacher,
        sub_collection=origin.sub_collection,
        task=origin.task,
    )


def read_alpaca(row: Row, origin: RowOrigin) -> Trace:
    """Alpaca rows: ``instruction``, optional ``input``, ``output``, optional ``system``."""
    instruction, extra = _text(row, "instruction"), _optional(row, "input")
    return Trace(
        id=_optional(row, "id") or origin.id,
        system_message=_optional(row, "system"),
        query=f"{instruction}\n\n{extra}" if extra else instruction,
        response=_response(row, "output"),
        teacher=_optional(row, "generator") or origin.teacher,
        sub_collection=_optional(row, "dataset") or origin.sub_collection,
        task=origin.task,
    )


def read_flan_cot(row: Row, origin: RowOrigin) -> Trace:
    """FLAN CoT rows (question, answer, rationale): the response is the rationale, then the
    answer in a sentence of its own. Line breaks are the two characters ``\\n`` in the files."""
    question, answer, rationale = (
        _text(row, name).replace("\\n", "\n") for name in ("question", "answer", "rationale")
    )
    rationale = rationale.strip()
    stop = "" if re.search(r"[.!?]$", rationale) else "."
    return Trace(
        id=origin.id,
        system_message="",
        query=question,
        response=f"{rationale}{stop}\nThe answer is {answer.strip().removesuffix('.')}.",
        teacher="human",
        sub_collection=origin.sub_collection or "cot",
        task=origin.task,
        gold_answer=answer.strip(),
    )


def read_prompt_completion(row: Row, origin: RowOrigin) -> Trace:
    """Rows with ``prompt`` and ``completion``. A final ``<|endoftext|>`` mark is no text."""
    completion = _text(row, "completion").strip().removesuffix("<|endoftext|>")
    return Trace(
        id=_optional(row, "id") or origin.id,
        system_message=_optional(row, "system"),
        query=_text(row, "prompt"),
        response=_response({"completion": completion}, "completion"),
        teacher=origin.teacher,
        sub_collection=origin.sub_collection,
        task=_optional(row, "template") or origin.task,
    )


def read_flan_targets(row: Row, origin: RowOrigin) -> Trace:
    """Rows of a query set with the first gold target as the response: plain instruction tuning.

    The system message is left out: it asks for an explanation, and a bare answer is none.
    """
    targets = row.get("targets")
    if not isinstance(targets, (list, tuple)):
        raise BadRow("missing_field", f"no list 'targets'; {_has(row)}")
    first = next((t for t in targets if isinstance(t, str) and t.strip()), "")
    return Trace(
        id=_optional(row, "id") or origin.id,
        system_message="",
        query=_text(row, "query"),
        response=_response({"targets": first}, "targets"),
        teacher="flan",
        sub_collection=_optional(row, "collection") or origin.sub_collection,
        task=_optional(row, "task") or origin.task,
        gold_answer=first.strip() or None,
    )


READERS: dict[str, Reader] = {
    "trace": read_trace,
    "openorca": read_openorca,
    "chat": read_chat,
    "alpaca": read_alpaca,
    "flan_cot": read_flan_cot,
    "prompt_completion": read_prompt_completion,
    "flan_targets": read_flan_targets,
}
"""Readers by the name used in ``data.format``."""


def _text(row: Row, name: str) -> str:
    if row.get(name) is None:
        raise BadRow("missing_field", f"no field {name!r}; {_has(row)}")
    value = row[name]
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"field {name!r} is {_kind(value)}, not text")
    if not value.strip():
        raise BadRow("empty_field", f"field {name!r} is empty")
    return _encodable(value, name)


def _response(row: Row, name: str) -> str:
    if isinstance(row.get(name), str) and not row[name].strip():
        raise BadRow("empty_response", f"the response (field {name!r}) is empty")
    return _text(row, name).strip()


def _optional(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name == "id" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"field {name!r} is {_kind(value)}, not text")
    return _encodable(value, name)


def _encodable(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise BadRow("invalid_unicode", f"field {name!r} has half a character in it") from None
    return value


def _kind(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


def _has(row: Row) -> str:
    return f"the row has {', '.join(map(repr, row)) or 'no fields'}"
