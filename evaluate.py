"""Measure a model as the paper measured Orca.

    python evaluate.py model=runs/smollm2_135m-sample/flan5m_chatgpt/hf
    python evaluate.py model=DIR benchmark=[agieval,bbh] fraction=0.1 protocol=greedy
    python evaluate.py model=gpt4 engine=openai teacher@engine.teacher=gpt4 benchmark=[agieval]

The same command goes on where an earlier one ended. Options are in conf/evaluate.yaml.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import sys
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from orca.config import check_config, run_program, to_the_letter
from orca.errors import UserError
from orca.evaluation import (
    Benchmark,
    Engine,
    Item,
    Protocol,
    Records,
    ToxicityClassifier,
    ask_all,
    build_results,
    check_others,
    check_system_messages,
    fingerprint,
    log_results,
    overlap,
    save_results,
    stratified,
    trace_texts,
)
from orca.evaluation.judging import Judging
from orca.traces import TraceSource
from orca.traces.system_messages import ORCA2_MESSAGE
from orca.training import trained_by

OPTIONS = (
    "benchmark", "protocol", "engine", "logger", "paths", "model_path", "name", "out",
    "system_message", "fraction", "compare", "traces", "run", "judge",
    "toxicity",
)  # fmt: skip


def main(config: DictConfig) -> None:
    """Ask what is missing, score everything, write the report."""
    check_config(config, OPTIONS)
    protocol: Protocol = instantiate(config.protocol)
    benchmarks: list[Benchmark] = list(instantiate(config.benchmark, _convert_="all").values())
    messages = check_system_messages(config.system_message)
    for one in benchmarks:
        if protocol.kind == "loglikelihood" and one.kind != "multiple_choice":
            raise UserError(f"protocol=loglikelihood is for multiple choice, not for {one.name}")
    items = {one.name: one.items() for one in benchmarks}
    chosen = stratified([item for own in items.values() for item in own], config.fraction)
    kinds = {one.kind for one in benchmarks}
    # Before anything is asked, to fail early, and before engines that fill the device.
    scorers: dict[str, Judging | ToxicityClassifier] = {
        kind: instantiate(config[name], _convert_="all")
        for kind, name in (("judged", "judge"), ("toxicity", "toxicity"))
        if kind in kinds
    }
    for scorer in scorers.values():
        if isinstance(scorer, Judging):
            judged = {one.name for one in benchmarks if one.kind == "judged"}
            scorer.check([item for item in chosen if item.benchmark in judged])
    out = Path(config.out)
    others = check_others(config.compare, out)
    traces = _traces(config.traces)
    engine: Engine = instantiate(config.engine, _convert_="all")
    facts = _facts(config.model_path, engine, protocol, items)
    records = Records(out, facts)
    whole = f"{len(chosen):,} of {sum(map(len, items.values())):,} items of {', '.join(items)}"
    print(
        f"{config.name}: {whole}; {protocol.describe()}, system message(s) {messages}; "
        f"{engine.describe()}",
        flush=True,
    )
    try:
        samples = ask_all(engine, chosen, protocol, messages, records)
    finally:
        records.close()
    gold = {one.name: items[one.name] for one in benchmarks if one.kind not in scorers}
    results = build_results(config.name, facts, protocol, gold, samples, others)
    results.about = {
        "asked": f"{whole}; {protocol.draws} draw(s); system message(s) "
        f"{', '.join(map(str, messages))} of Table 2"
        + (f" ({ORCA2_MESSAGE}: Orca 2's)" if ORCA2_MESSAGE in messages else ""),
        "date": datetime.date.today().isoformat(),
    }
    left_out = sorted({one.benchmark for one in records.read()} - set(items))
    if left_out:
        results.notes.append(
            f"samples/ has answers to {', '.join(left_out)} too, which this report leaves out: "
            f"benchmark=[{','.join([*items, *left_out])}] reports on all of them."
        )
    save_results(results, out)  # a judge or classifier may fail
    for kind, scorer in scorers.items():
        own = {one.name: items[one.name] for one in benchmarks if one.kind == kind}
        scorer.add_to(results, protocol, own, samples, out)
    if traces is not None:
        found = overlap([item for own in items.values() for item in own], trace_texts(traces))
        found.save(out / "overlap.json")
        results.tables.append(found.table())
        results.details.append(found.item_table())
    save_results(results, out)
    if config.logger:
        trained = facts.get("trained by")
        group = trained["group"] if trained else config.logger.group
        place = {"directory": config.out, "name": config.name, "group": group}
        logger = instantiate(config.logger, **place, job_type="evaluation")
        log_results(results, logger, out)
    print(results.text(), flush=True)
    print(f"{out}: report.md, report.html, report.json, samples/", flush=True)


def _traces(config: DictConfig) -> TraceSource | None:
    """The training traces to look for items in, opened."""
    if config.path is None:
        return None
    source = TraceSource(config.files, config.format, config.path)
    len(source)
    return source


def _facts(
    model: str, engine: Engine, protocol: Protocol, items: dict[str, list[Item]]
) -> dict[str, Any]:
    """What must be the same for all answers in a directory; draws may be added."""
    trained = trained_by(Path(model))
    known = {"trained by": trained} if trained else {}
    asked = {k: v for k, v in dataclasses.asdict(protocol).items() if k != "draws"}
    data = {f"data {name}": fingerprint(own) for name, own in items.items()}
    return {"model": engine.describe(), **known, "protocol": asked, **data}


if __name__ == "__main__":
    # conf/model is a group of train.py, and Hydra would look there for what model= names.
    sys.argv[1:] = [re.sub("^model=", "model_path=", argument) for argument in sys.argv[1:]]
    if not {"-m", "--multirun"} & set(sys.argv):  # directories of sweeps have commas
        names = ("model_path", "name", "out")
        sys.argv[1:] = to_the_letter(sys.argv[1:], {name: name for name in names})
    shown = {"--help", "--hydra-help", "--info", "-h", "-i"}
    if not shown & set(sys.argv) and not any(a.startswith("model_path=") for a in sys.argv):
        print(
            "error: model= is needed: a directory, a hub id, or a name in conf/model",
            file=sys.stderr,
        )
        sys.exit(2)
    run_program(main, "evaluate")
