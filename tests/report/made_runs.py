"""Run directories as training leaves them, written by hand: any state, any text, any length."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import compose_config
from omegaconf import OmegaConf

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
)


def write_stage(
    directory: Path,
    metrics: Mapping[str, Sequence[tuple[int, float]]],
    losses: tuple[float, float] | None = None,
    options: Sequence[str] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    incidents: Sequence[Mapping[str, Any]] = (),
    held_out: str = "same",
) -> Path:
    """A stage's directory; it is finished where ``losses`` (before, after) are given."""
    directory.mkdir(parents=True)
    config = compose_config("model=tiny", "stage=progressive", *options, run_dir=directory.parent)
    if directory.name in config.stages:
        config.stages = {directory.name: config.stages[directory.name]}
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    rows = [f"{step},{name},{value!r}\n" for name, own in metrics.items() for step, value in own]
    (directory / "metrics.csv").write_text("step,name,value\n" + "".join(rows))
    if losses is not None:
        results = {
            "stage": directory.name,
            "held_out_loss": {"before": losses[0], "after": losses[1]},
            "exact_answer": {"before": 0.0, "after": 0.5},
            "steps": 4, "skipped_steps": 0, "examples": 9, "truncated": 0, "tokens": 100,
            "target_tokens": 50, "tokens_per_second": 10.0, "seconds": 5.0,
        }  # fmt: skip
        (directory / "results.json").write_text(json.dumps(results))
        (directory / "data_card.json").write_text(json.dumps(card(held_out)))
    for name, lines in (("samples.jsonl", samples), ("incidents.jsonl", incidents)):
        if lines:
            (directory / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    return directory


def card(held_out: str) -> dict[str, Any]:
    """Of data with hostile names."""
    lengths = {"p0": 1, "p5": 1, "p25": 2, "p50": 3, "p75": 4, "p95": 5, "p100": 6}
    return {
        "title": HOSTILE,
        "totals": {"read": 10, "examples": 9, "packs": 2, "tokens": 100, "target_tokens": 50},
        "fill": 0.9,
        "examples_per_pack": 4.5,
        "length": lengths,
        "target_tokens_per_example": lengths,
        "dropped": {HOSTILE: 1},
        "dropped_rows": [{"reason": HOSTILE, "where": HOSTILE, "detail": HOSTILE}],
        "composition": {
            "teacher": {HOSTILE: 9},
            "sub_collection": {"cot": 5, HOSTILE: 4},
            "system_message": {"1": 5, "7": 3, "17": 2, HOSTILE: 1},
        },
        "audit": {"boundaries": HOSTILE},
        "facts": {"held out": held_out},
    }


def sample(step: int, id: str, exact: bool | None, response: str = "an answer") -> dict[str, Any]:
    """A row of samples.jsonl."""
    return {
        "step": step, "id": id, "task": "a task", "system_message": "", "query": f"query {id}",
        "response": response, "gold_answer": None if exact is None else "4", "exact": exact,
    }  # fmt: skip


def losses(values: Sequence[float]) -> dict[str, list[tuple[int, float]]]:
    """Metrics of a stage that only logs what it must."""
    steps = list(enumerate(values))
    return {
        "train/loss": steps,
        "val/loss": [(0, values[0]), (len(values), values[-1])],
        "data/target_tokens": [(step, 10.0 * (step + 1)) for step, _ in steps],
    }
