"""Query set → teacher → explanation traces (section 3.1.3 of arXiv 2306.02707)."""

from orca.teacher.ask import Asking, unanswered
from orca.teacher.batch import Batching
from orca.teacher.collection import Collection
from orca.teacher.ledger import Ledger
from orca.teacher.progress import Progress
from orca.teacher.queries import read_requests
from orca.teacher.report import collection_report
from orca.teacher.settings import Endpoint, Prices, Teacher
from orca.teacher.shards import Shards

__all__ = [
    "Asking",
    "Batching",
    "Collection",
    "Endpoint",
    "Ledger",
    "Prices",
    "Progress",
    "Shards",
    "Teacher",
    "collection_report",
    "read_requests",
    "unanswered",
]
