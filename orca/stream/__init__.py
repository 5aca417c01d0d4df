"""Curriculum order, tokens and target masks, packs, the global stream, the LightningDataModule."""

from orca.stream.audit import AuditFindings, audit_packs, show_pack
from orca.stream.batches import IGNORED, MicroBatch, StepBatch, StepLoader, balance, collate
from orca.stream.card import DataCard
from orca.stream.curriculum import (
    AsGiven,
    ByDifficulty,
    ByLength,
    BySubCollection,
    Curriculum,
    Shuffle,
)
from orca.stream.datamodule import TraceDataModule
from orca.stream.encode import Encoder, Example, TooLong
from orca.stream.packing import Pack, best_fit_decreasing, pack_window
from orca.stream.stream import PackStream, StreamPack, StreamState, displacement
from orca.stream.windows import HeldOut, lost_worker

__all__ = [
    "IGNORED",
    "AsGiven",
    "AuditFindings",
    "ByDifficulty",
    "ByLength",
    "BySubCollection",
    "Curriculum",
    "DataCard",
    "Encoder",
    "Example",
    "HeldOut",
    "MicroBatch",
    "Pack",
    "PackStream",
    "Shuffle",
    "StepBatch",
    "StepLoader",
    "StreamPack",
    "StreamState",
    "TooLong",
    "TraceDataModule",
    "audit_packs",
    "balance",
    "best_fit_decreasing",
    "collate",
    "displacement",
    "lost_worker",
    "pack_window",
    "show_pack",
]
