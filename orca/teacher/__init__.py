"""Query set → teacher → explanation traces (section 3.1.3 of arXiv 2306.02707)."""

from orca.teacher.ask import Asking, unanswered
from orca.teacher.gates import Empty, Language, Refusal, Repetition, WrongAnswer, run_gates
from orca.teacher.ledger import Ledger
from orca.teacher.plan import plan, plan_report
from orca.teacher.queries import read_requests
from orca.teacher.report import ledger_facts, show_progress, summary
from orca.teacher.settings import Endpoint, Prices, Teacher
from orca.teacher.shards import write_rejected, write_traces

__all__ = [
    "Asking",
    "Empty",
    "Endpoint",
    "Language",
    "Ledger",
    "Prices",
    "Refusal",
    "Repetition",
    "Teacher",
    "WrongAnswer",
    "ledger_facts",
    "plan",
    "plan_report",
    "read_requests",
    "run_gates",
    "show_progress",
    "summary",
    "unanswered",
    "write_rejected",
    "write_traces",
]
