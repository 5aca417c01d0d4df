"""A model → benchmarks as the paper ran them → tables with intervals (section 5 of 2306.02707)."""

# The judge is orca.evaluation.judging: its client of servers takes a second to import, and
# train.py asks benchmarks too.
from orca.evaluation.ask import ask_all, check_system_messages
from orca.evaluation.benchmark_slice import BenchmarkSlice
from orca.evaluation.choose import stratified
from orca.evaluation.contamination import overlap, trace_texts
from orca.evaluation.engine import Engine
from orca.evaluation.item import Benchmark, Item, Sample
from orca.evaluation.page import save_results
from orca.evaluation.protocol import Protocol
from orca.evaluation.records import Records, fingerprint, read_samples
from orca.evaluation.results import Results, build_results, check_others
from orca.evaluation.toxicity import ToxicityClassifier
from orca.evaluation.tracking import log_results

__all__ = [
    "Benchmark",
    "BenchmarkSlice",
    "Engine",
    "Item",
    "Protocol",
    "Records",
    "Results",
    "Sample",
    "ToxicityClassifier",
    "ask_all",
    "build_results",
    "check_others",
    "check_system_messages",
    "fingerprint",
    "log_results",
    "overlap",
    "read_samples",
    "save_results",
    "stratified",
    "trace_texts",
]
