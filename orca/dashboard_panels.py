"""What the W&B workspace and report show: sections, plots, and the paper's numbers beside ours.

Everything here is data; :mod:`orca.dashboard` hands it to ``wandb-workspaces``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orca.evaluation.paper import (
    AGIEVAL,
    BBH,
    FLAN_1M_ONLY,
    OPEN_ENDED,
    OPEN_ENDED_AVERAGES,
    ORCA,
    VICUNA,
    PaperTable,
)
from orca.evaluation.table import Table

RUN_FACTS = ("model", "data", "stage", "arm", "job", "seed")
"""What a run's configuration has at its top (:func:`orca.training.run_facts`)."""

TRAINING, EVALUATIONS = "Training", "Evaluations"


@dataclass(frozen=True)
class Plot:
    """One panel.

    Attributes:
        metrics: names as they are logged; one that ends in ``/.+`` is a regular expression.
        kind: ``line`` over ``x``, or ``bar`` of the runs' last values.
        by: what lines or bars are averages over: a key of the configuration; "": every run alone.
        log: logarithmic y axis.
    """

    title: str
    metrics: tuple[str, ...]
    kind: str = "line"
    x: str = "Step"
    by: str = ""
    log: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under a heading, of the runs named by ``runs``."""

    title: str
    plots: tuple[Plot, ...]
    runs: str = TRAINING
    text: str = ""


SECTIONS: tuple[Section, ...] = (
    Section(
        "Loss",
        (
            Plot("training loss by stage", ("train/loss",), by="stage"),
            Plot("held-out loss", ("val/loss",)),
            Plot("held-out loss by target tokens", ("val/loss",), x="data/target_tokens"),
            Plot("held-out loss by sub-collection", ("val/loss/.+",)),
            Plot("training loss by target tokens", ("train/loss",), x="data/target_tokens"),
            Plot("exact answers to held-out questions", ("val/exact_answer",)),
        ),
    ),
    Section(
        "Stage pairs",
        (
            Plot("held-out loss at the end", ("val/loss.last",), "bar", by="stage"),
            Plot("exact answers at the end", ("val/exact_answer",), "bar", by="stage"),
            Plot("held-out loss over a stage", ("val/loss",), x="data/progress", by="stage"),
        ),
        text="Stages are the job types of a group. A stage that began with another's model names "
        "that run as `uses_run`; averages are over all runs of a stage that are shown.",
    ),
    Section(
        "Data",
        (
            Plot("target tokens", ("data/target_tokens",)),
            Plot("share of the data that was read", ("data/progress",)),
            Plot("length of responses in training, tokens", ("data/response_tokens",)),
            Plot("length of the student's responses, tokens", ("samples/response_tokens",)),
        ),
    ),
    Section(
        "Throughput and memory",
        (
            Plot("target tokens a second", ("throughput/target_tokens_per_second",)),
            Plot("tokens a second", ("throughput/tokens_per_second",)),
            Plot("model FLOP/s utilisation", ("throughput/mfu",)),
            Plot("peak memory of a device, GiB", ("throughput/peak_memory_gib",)),
            Plot("share of time spent waiting for data", ("throughput/data_wait",)),
            Plot("share of a pack that is filled", ("throughput/fill",)),
        ),
    ),
    Section(
        "Optimization",
        (
            Plot("gradient norm before clipping", ("train/gradient_norm",), log=True),
            Plot("learning rate", ("train/lr",)),
            Plot("steps that were skipped", ("guards/skipped_steps",)),
        ),
    ),
    Section(
        "Benchmarks in training",
        (
            Plot("BBH, share right", ("eval/bbh/accuracy", "eval/bbh/stated")),
            Plot("AGIEval, share right", ("eval/agieval/accuracy", "eval/agieval/stated")),
            Plot(
                "answers without a label",
                ("eval/bbh/format_failures", "eval/agieval/format_failures"),
            ),
        ),
        text="Of runs with `benchmark=[bbh,agieval]`: a small part of the items.",
    ),
    Section(
        "Benchmarks",
        (
            Plot("AGIEval, share right", ("eval/agieval/accuracy",), "bar"),
            Plot("BBH, share right", ("eval/bbh/accuracy",), "bar"),
            Plot("TruthfulQA, share right", ("eval/truthfulqa/accuracy",), "bar"),
            Plot("held-out questions, share right", ("eval/held_out/accuracy",), "bar"),
            Plot("GSM8K, share right", ("eval/gsm8k/accuracy",), "bar"),
            Plot("AGIEval by stage", ("eval/agieval/accuracy",), "bar", by="stage"),
            Plot("BBH by stage", ("eval/bbh/accuracy",), "bar", by="stage"),
            Plot("AGIEval without a label", ("eval/agieval/format_failures",), "bar"),
            Plot("BBH without a label", ("eval/bbh/format_failures",), "bar"),
        ),
        EVALUATIONS,
        "Runs of `evaluate.py logger=wandb`, in the group of the run whose model they measured. "
        "Shares are from 0 to 1; the paper's numbers, at the end of the report, are per cent.",
    ),
)


def sweep_section(swept: Sequence[str]) -> Section:
    """Held-out loss and exact answers by every option that was swept."""
    plots = []
    for option in swept:
        plots += [
            Plot(f"held-out loss by {option}", ("val/loss",), by=config_key(option)),
            Plot(f"final loss by {option}", ("val/loss.last",), "bar", by=config_key(option)),
        ]
    plots.append(Plot("held-out loss of every job", ("val/loss",), by="job"))
    return Section("Sweeps", tuple(plots), text="One group is one sweep, one run a job and stage.")


def config_key(option: str) -> str:
    """Where a run's configuration has an option of `train.py`."""
    return option if option in RUN_FACTS else f"config.{option}"


def paper_tables() -> Iterator[Table]:
    """The tables that our benchmarks stand beside, as printed."""
    yield _table(
        "AGIEval (Table 8, zero-shot accuracy)", AGIEVAL, ("ChatGPT", "GPT-4", VICUNA, ORCA)
    )
    yield _table("BBH (Table 11, zero-shot accuracy)", BBH, ("ChatGPT", "GPT-4", VICUNA, ORCA))
    yield _table(
        "AGIEval with and without stage 1 (Table 10)", FLAN_1M_ONLY, ("FLAN-1M only", ORCA)
    )
    rows = tuple(
        (one.benchmark, one.reference, one.vicuna, one.orca)
        for one in (*OPEN_ENDED, *OPEN_ENDED_AVERAGES)
    )
    head = ("questions", "reference", VICUNA, ORCA)
    yield Table("Open-ended answers, per cent of the reference's score (Table 7)", head, rows)


def _table(title: str, paper: PaperTable, columns: Sequence[str]) -> Table:
    rows = [
        (name, *(paper.cell(column, task) for column in columns))
        for task, name in paper.tasks.items()
    ]
    rows.append(("average", *(paper.averages[column] for column in columns)))
    return Table(title, ("task", *columns), tuple(rows))
