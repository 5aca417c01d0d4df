"""The page of one run: all its stages together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from orca.page import environment
from orca.report import samples
from orca.report.curves import HEIGHT, SMOOTHING, WIDTH
from orca.report.directory import Run, StageRun
from orca.report.evaluations import Evaluation, tables
from orca.report.options import UNKNOWN, differences, program_defaults
from orca.report.run_charts import run_charts
from orca.report.sweep_tables import duration
from orca.traces import NUMBERED_MESSAGES
from orca.training.directory import flat_options

MOST_ROWS = 40
"""Of a table of the data card or of incidents; the files have all."""

FIGURES = (
    ("rows read", "read"),
    ("held out for validation", "held_out"),
    ("examples trained on", "examples"),
    ("tokens", "tokens"),
    ("target tokens", "target_tokens"),
    ("packs", "packs"),
    ("queries truncated", "truncated"),
    ("tokens cut from queries", "truncated_tokens"),
    ("texts with special tokens spelled out", "special_tokens_spelled_out"),
)
"""Totals of a data card: what they are called here, and there."""


def run_html(run: Run, evaluations: Sequence[Evaluation] = ()) -> str:
    """The whole page."""
    averages, benchmarks = tables(evaluations)
    asked = samples.questions(run)
    return environment(Path(__file__).parent).get_template("run.html.j2").render(
        run=run,
        width=WIDTH,
        height=HEIGHT,
        smoothing=int(SMOOTHING),
        title=f"{run.name}: training report",
        tiles=_tiles(run),
        header=_header(run),
        learned=[_learned(stage) for stage in run.stages],
        charts=run_charts(run),
        incidents=_incidents(run),
        figures=_figures(run.stages),
        compositions=_compositions(run.stages),
        drops=[(stage.name, stage.card) for stage in run.stages if stage.card],
        questions=samples.chosen(asked),
        num_questions=len(asked),
        kinds=samples.KINDS,
        counts=samples.counts(asked),
        averages=averages,
        benchmarks=benchmarks,
        evaluations=evaluations,
        differing=_differing(run),
        configuration=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100),
        most_rows=MOST_ROWS,
    )  # fmt: skip


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Value, what it is, a remark: what one wants to know first."""
    tiles, lineage = [], _lineage(run)
    for title, key, metric, form in (
        ("held-out loss", "held_out_loss", "val/loss", "{:.3f}"),
        ("exact answers", "exact_answer", "val/exact_answer", "{:.1%}"),
    ):
        ends = [e for stage in lineage if (e := stage.ends(key, metric))]
        if not ends:
            continue
        known = [one.get("after") for one in ends]
        path = [form.format(ends[0]["before"]), *(form.format(v) for v in known if v is not None)]
        remark = "before training"
        if len(path) > 1:
            remark = "before and after training" if len(path) == 2 else "before, after each stage"
        if len(lineage) < len(run.stages):  # others began from the same pretrained model
            remark += f" ({' → '.join(stage.name for stage in lineage)})"
        tiles.append((" → ".join(path), title, remark))
    tokens = [stage.tokens("target_tokens") or 0 for stage in run.stages]
    read = [stage.tokens("tokens") or 0 for stage in run.stages]
    steps = sum(stage.steps for stage in run.stages)
    tiles.append(
        (f"{sum(tokens):,.0f}", "target tokens", f"of {sum(read):,.0f} tokens, {steps:,} steps")
    )
    if run.seconds:
        speeds = [s.results["tokens_per_second"] for s in run.stages if s.results]
        remark = " → ".join(f"{speed:,.0f}" for speed in speeds if speed)
        tiles.append((duration(run.seconds), "of training", f"{remark} tokens/s (median)"))
    return tiles


def _lineage(run: Run) -> list[StageRun]:
    """The last stage after those of the run that it goes on from."""
    found = list(run.stages[-1:])
    named = {stage.name: stage for stage in run.stages}
    while found and (earlier := named.pop(found[0].start_from, None)):
        found.insert(0, earlier)
    return found


def _header(run: Run) -> dict[str, str]:
    """Facts by their name; what is not known is not there."""
    if not run.stages:
        return {"state": f"{run.state}: no stage has begun"}
    config = run.config
    facts = {
        "state": ", ".join(f"{s.name} {_progress(s)}" for s in run.stages)
        + "".join(f", {name} not started" for name in run.expected[len(run.stages) :]),
        "model": _named(config.get("model"), "hub_id", "path"),
        "data": _named(config.get("data"), "path"),
        "seed": str(config.get("seed", UNKNOWN)),
        "step": _step(config),
        "learning rate": _rates(run),
        "device": _device(run),
        "software": _joined(run, "software"),
        "commit": _joined(run, "commit") or _commit_of_card(run),
        "began": run.stages[0].machine.get("began", ""),
        "directory": str(run.path),
    }
    return {name: value for name, value in facts.items() if value}


def _progress(stage: StageRun) -> str:
    done = stage.last("data/progress")
    if stage.state == "finished" or done is None:
        return stage.state
    return f"{stage.state} at {done:.0%}, step {stage.steps:,}"


def _named(part: Any, *more: str) -> str:
    """The name of a model or of data, and where it is from."""
    if not isinstance(part, dict):
        return ""
    name = str(part.get("name", UNKNOWN))
    others = [str(part[key]) for key in more if part.get(key) and str(part[key]) != name]
    return f"{name} ({', '.join(others)})" if others else name


def _step(config: dict[str, Any]) -> str:
    data = config.get("data") or {}
    if "global_batch" not in data:
        return ""
    return f"{data['global_batch']} pack(s) of {data.get('max_tokens', UNKNOWN)} tokens"


def _rates(run: Run) -> str:
    """The highest learning rate of each stage, as it was used."""
    found = [s.metrics["train/lr"][1].max() for s in run.stages if "train/lr" in s.metrics]
    return ", then ".join(f"{rate:.3g}" for rate in found) + (" at most" if found else "")


def _device(run: Run) -> str:
    """What ran it; of runs that wrote nothing down, what was asked for."""
    known = _joined(run, "device")
    if known:
        return known
    trainer = run.config.get("trainer") or {}
    parts = [f"accelerator={trainer.get('accelerator')}", f"devices={trainer.get('devices')}"]
    return f"as configured: {', '.join(parts)}" if trainer else ""


def _joined(run: Run, key: str) -> str:
    """What the stages' machine.json say; once where they say the same."""
    return "; ".join(dict.fromkeys(str(s.machine[key]) for s in run.stages if s.machine.get(key)))


def _commit_of_card(run: Run) -> str:
    """Of the exported model's card, where the run itself did not write it down."""
    found = []
    for stage in run.stages:
        card = stage.path / "hf" / "README.md"
        text = card.read_text(encoding="utf-8") if card.exists() else ""
        found += [line.split("commit ")[1].rstrip(". ") for line in text.splitlines()
                  if line.startswith("- Code: commit ")]  # fmt: skip
    return "; ".join(dict.fromkeys(found))


def _learned(stage: StageRun) -> dict[str, Any]:
    """A row of the table of stages."""
    results = stage.results or {}
    return {
        "stage": stage.name,
        "start": stage.start_from,
        "state": _progress(stage),
        "loss": _path(stage.ends("held_out_loss", "val/loss"), "{:.4f}"),
        "exact": _path(stage.ends("exact_answer", "val/exact_answer"), "{:.1%}"),
        "steps": stage.steps,
        "skipped": results.get("skipped_steps", int(stage.last("guards/skipped_steps") or 0)),
        "tokens": stage.tokens("tokens"),
        "targets": stage.tokens("target_tokens"),
        "speed": results.get("tokens_per_second"),
        "time": duration(results["seconds"]) if results else "",
    }


def _path(ends: dict[str, float] | None, form: str) -> str:
    """From before to after a stage."""
    return " → ".join(form.format(value) for value in ends.values()) if ends else UNKNOWN


def _incidents(run: Run) -> list[dict[str, Any]]:
    """Steps that went wrong: stage, step, what, and the examples that were in it."""
    rows = []
    for stage in run.stages:
        for one in stage.incidents:
            facts = {k: v for k, v in one.items() if k not in ("kind", "step", "examples")}
            said = ", ".join(
                f"{k.replace('_', ' ')} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                for k, v in facts.items()
            )
            examples = [str(id) for id in one.get("examples", ())]
            rows.append({"stage": stage.name, "step": one.get("step"), "kind": one.get("kind", ""),
                         "said": said, "examples": examples})  # fmt: skip
    return rows


def _figures(stages: Sequence[StageRun]) -> list[tuple[str, list[str]]]:
    """Rows of the data cards side by side; None until a stage has finished."""
    cards = [stage.card for stage in stages]
    if not any(cards):
        return []
    rows = [(name, [_number(c["totals"].get(key, 0) if c else None) for c in cards])
            for name, key in FIGURES]  # fmt: skip
    rows.insert(2, ("dropped", [_number(sum(c["dropped"].values()) if c else None) for c in cards]))
    rows.append(("packs filled", [UNKNOWN if not c else f"{c['fill']:.1%}" for c in cards]))
    rows.append(("examples per pack", [UNKNOWN if not c else f"{c['examples_per_pack']:.2f}"
                                       for c in cards]))  # fmt: skip
    for name, key in (("tokens of an example", "length"),
                      ("target tokens of an example", "target_tokens_per_example")):  # fmt: skip
        texts = [
            UNKNOWN
            if not c or not c[key]
            else f"{c[key]['p50']:,} ({c[key]['p5']:,} to {c[key]['p95']:,})"
            for c in cards
        ]
        rows.append((f"{name}: median (5 % to 95 %)", texts))
    return rows


def _compositions(stages: Sequence[StageRun]) -> list[dict[str, Any]]:
    """A table for teacher, sub-collection and system message, most examples first."""
    found = []
    done = [stage for stage in stages if stage.card]
    for name in ("teacher", "sub_collection", "system_message"):
        counts = [Counter(stage.card["composition"][name]) for stage in done if stage.card]
        total = sum(counts, Counter())
        wholes = [max(sum(one.values()), 1) for one in counts]
        rows = [
            {
                "name": f"message {key}" if name == "system_message" and key.isdigit() else key,
                "said": _message(key) if name == "system_message" else "",
                "counts": [(one[key], one[key] / whole)
                           for one, whole in zip(counts, wholes, strict=True)],
            }
            for key, _ in total.most_common(MOST_ROWS)
        ]  # fmt: skip
        if rows:
            found.append({"title": name.replace("_", "-") if name == "sub_collection" else
                          name.replace("_", " "), "stages": [stage.name for stage in done],
                          "rows": rows, "more": len(total) - len(rows)})  # fmt: skip
    return found


def _message(key: str) -> str:
    """What a system message says that has a number."""
    if not key.isdigit() or int(key) not in NUMBERED_MESSAGES:
        return ""
    return NUMBERED_MESSAGES[int(key)] or "(empty)"


def _differing(run: Run) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads and rows of what the stages' configurations say that the program's defaults do not."""
    if not run.stages:
        return [], []
    configs = {stage.name: flat_options(stage.config) for stage in run.stages}
    distinct = differences(list(configs.values()))
    distinct = [(key, values) for key, values in distinct if not key.startswith("stages.")]
    whole = flat_options(run.config)
    if not distinct:
        return ["here"], differences([program_defaults(), whole])
    return list(configs), differences([program_defaults(), *configs.values()])


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"
