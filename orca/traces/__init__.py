"""What a trace is, and how files become traces and traces become text."""

from orca.traces.formats import READERS, RowOrigin
from orca.traces.source import Files, Shown, TraceSource
from orca.traces.system_messages import (
    MULTIPLE_CHOICE_ONLY,
    NUMBERED_MESSAGES,
    ORCA2_MESSAGE,
    SYSTEM_MESSAGES,
    match_system_message,
)
from orca.traces.template import Rendered, Template, begins_with_bos, plain_text
from orca.traces.trace import BadRow, Trace

__all__ = [
    "MULTIPLE_CHOICE_ONLY",
    "NUMBERED_MESSAGES",
    "ORCA2_MESSAGE",
    "READERS",
    "SYSTEM_MESSAGES",
    "BadRow",
    "Files",
    "Rendered",
    "RowOrigin",
    "Shown",
    "Template",
    "Trace",
    "TraceSource",
    "begins_with_bos",
    "match_system_message",
    "plain_text",
]
