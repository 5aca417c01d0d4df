"""Query set → teacher → explanation traces (section 3.1.3 of arXiv 2306.02707)."""

from orca.teacher.ask import Asking, unanswered
from orca.teacher.batch import Batching
from orca.teacher.gates import Empty, Language, Refusal, Repetition, WrongAnswer, run_gates
from orca.teacher.ledger import Ledger
from orca.teacher.plan import plan, plan_report
from orca.teacher.progress import Progress, show_progress
from orca.teacher.queries import count_requests, read_requests
from orca.teacher.report import collection_report, ledger_facts, save_report, summary
from orca.teacher.settings import Endpoint, Prices, Teacher
from orca.teacher.shards import Shards

__all__ = [
    "Asking",
    "Batching",
    "Empty",
    "Endpoint",
    "Language",
    "Ledger",
    "Prices",
    "Progress",
    "Refusal",
    "Repetition",
    "Shards",
    "Teacher",
    "WrongAnswer",
    "collection_report",
    "count_requests",
    "ledger_facts",
    "plan",
    "plan_report",
    "read_requests",
    "run_gates",
    "save_report",
    "show_progress",
    "summary",
    "unanswered",
]
