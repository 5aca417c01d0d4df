"""The results in Weights & Biases: configuration, metrics, plots, tables, and whose they are."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from orca.evaluation.results import Results
from orca.evaluation.scores import AVERAGE
from orca.evaluation.statistics import macro_ratio
from orca.training import WandbRun, log_artifact, use_model


def metrics(results: Results) -> dict[str, float]:
    """Every figure as a share: ``eval/<benchmark>/<what>``, as training logs it, and
    ``eval/<benchmark>/<task>/<what>``.

    With several system messages the name ends in the column's head, as ``… (orca, message 5)``.
    """
    found: dict[str, float] = {}
    for benchmark, runs in results.scores.items():
        for head, scores in runs.items():
            for one in scores:
                task = "" if one.task == AVERAGE else f"/{one.task}"
                name = f"eval/{benchmark}{task}"
                found |= {
                    _of(runs, head, f"{name}/accuracy"): one.accuracy.value,
                    _of(runs, head, f"{name}/stated"): one.stated.value,
                    _of(runs, head, f"{name}/format_failures"): one.format_failures,
                }
    for head, judged in results.judged.items():
        for own in judged:
            name = f"eval/{own.benchmark}/of_{own.reference}"
            found[_of(results.judged, head, name)] = macro_ratio([own.scores]).value
    for head, toxicity in results.toxicity.items():
        for group in toxicity:
            if group.mean and group.above:
                name = f"eval/toxigen/{group.setting}/{group.group}"
                found[_of(results.toxicity, head, f"{name}/mean")] = group.mean.value
                found[_of(results.toxicity, head, f"{name}/above")] = group.above.value
    return found


def log_results(results: Results, logger: WandbRun, out: Path) -> None:
    """Send facts (the configuration), metrics, a bar chart a benchmark and every table.

    Of a model that says which run trained it, the configuration has that run's model, data, stage,
    arm, job and seed too. Prompts and answers stay here: ``samples/`` is named by its address.

    Args:
        out: directory of the evaluation.
    """
    import wandb  # it takes a second, and most runs log nothing

    run, trained = logger.experiment, results.facts.get("trained by")
    about = {"evaluation": dict(results.facts), "about": dict(results.about)}
    known = {k: v for k, v in (trained or {}).items() if k not in ("id", "name", "group")}
    logger.log_hyperparams({"model": results.name, **known, **about})
    if trained:
        use_model(run, trained)
    logger.log_metrics(metrics(results))
    for benchmark, runs in results.scores.items():
        for head, scores in runs.items():
            rows = [[s.task, 100 * s.accuracy.value] for s in scores if s.task != AVERAGE]
            data = wandb.Table(columns=["task", "accuracy, %"], data=rows)
            title = f"{head} on {benchmark}"
            plot = wandb.plot.bar(data, "task", "accuracy, %", title=title)
            logger.log_metrics({f"plots/{_key(title)}": plot})
    for table in (*results.tables, *results.details):
        columns, values = table.values()
        logger.log_table(f"tables/{_key(table.title)}", columns=columns, data=values)
    samples = out / "samples"
    log_artifact(
        *(run, f"evaluation-{run.id}", "evaluation"),
        [out / name for name in ("facts.json", "report.json")],
        samples if samples.is_dir() else None,
        results.facts,
    )
    logger.finalize("success")


def _of(runs: Collection[str], head: str, name: str) -> str:
    return name if len(runs) == 1 else f"{name}/{head}"


def _key(title: str) -> str:
    """W&B makes file names of keys."""
    return re.sub(r"[^\w.-]+", "_", title).strip("_")
