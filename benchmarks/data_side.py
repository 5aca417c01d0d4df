"""The data side at the size of stage 1: start, waiting for data, memory.

    ORCA_SHARED_DATA=… python benchmarks/data_side.py --directory /fast/disk/bench

Writes a Parquet file of OpenOrca's columns (5 million rows by default, 8 GB of text, row groups of
1,048,576 rows as `pyarrow` writes by default) whose texts are pieces of the FLAN chain-of-thought
files, or of the sample traces where ORCA_SHARED_DATA is not set. Then:

- **start**: `train.py` with the tiny model, from the start of the process to the end of the first
  optimizer step; once with an empty cache and a Parquet file that is not in memory, once again.
- **waiting**: how long a consumer waits that takes tokens at a given rate, as a GPU would.
- **memory**: of the main process and the workers, over a million examples at full speed.

Waiting and memory use SmolLM2's tokenizer and the loader that training uses. Needs 3 kB of disk a
row. ``--parts`` measures some of the three anew; the page keeps the others' last figures.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from train_step_cpu import SMOLLM2, TEMPLATE, cpu_name

from orca.sample import SAMPLE_DIR
from orca.stream import Encoder, HeldOut, PackStream, Shuffle, StepLoader
from orca.traces import TraceSource
from orca.traces.system_messages import SYSTEM_MESSAGES

ROOT = Path(__file__).resolve().parent.parent
ROW_GROUP = 1 << 20
LONGEST = 12_000
NAME = "3_5M-GPT3_5-Augmented.parquet"  # of part chatgpt of data=openorca
PARTS = ("start", "waiting", "memory")
SAMPLES = 10  # of memory
CAPACITY, GLOBAL_BATCH, WORKERS = 2048, 64, 2  # the defaults of conf/data
IMPORTS, MODEL, LAST = "imports, configuration", "model made", "first optimizer step done"


def write_parquet(file: Path, rows: int, seed: int = 0) -> None:
    """OpenOrca's columns; question and response are pieces of real text, lengths log-normal with
    means of 900 and 700 bytes."""
    shared = os.environ.get("ORCA_SHARED_DATA")
    if shared:
        source = TraceSource("flan_cot/*_train.tsv", "flan_cot", shared)
    else:
        source = TraceSource(str(SAMPLE_DIR / "*_train.jsonl"), "trace")
    rng = np.random.default_rng(seed)
    texts = [f"{source[int(i)].query}\n{source[int(i)].response}\n" for i in range(len(source))]
    rng.shuffle(texts)
    text = "".join(texts).encode("ascii", "ignore")  # bytes are characters: it can be cut anywhere
    messages = list(SYSTEM_MESSAGES.values())
    schema = pa.schema(
        [(name, pa.string()) for name in ("id", "system_prompt", "question", "response")]
    )

    def pieces(count: int, mean: float, sigma: float) -> pa.Array:
        lengths = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
        ends = rng.integers(LONGEST, len(text), count)
        starts = ends - np.clip(lengths, 20, LONGEST).astype(np.int64)
        both = zip(starts.tolist(), ends.tolist(), strict=True)
        return pa.array([text[start:end] for start, end in both], pa.binary()).cast(pa.string())

    def batch(first: int, count: int) -> pa.RecordBatch:
        chosen = rng.integers(0, len(messages), count)
        columns = [
            pa.array([f"flan.{first + i}" for i in range(count)]),
            pa.array([messages[i] for i in chosen]),
            pieces(count, 900, 1.0),
            pieces(count, 700, 0.9),
        ]
        return pa.record_batch(columns, schema=schema)

    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, rows, ROW_GROUP):
            last = min(first + ROW_GROUP, rows)
            batches = [batch(i, min(1 << 17, last - i)) for i in range(first, last, 1 << 17)]
            writer.write_table(pa.Table.from_batches(batches), row_group_size=ROW_GROUP)


def train_with_times(result: Path, begun: float, overrides: list[str]) -> None:
    """Run `train.py` in this process; write when it passed what, until its first step ended.

    Args:
        result: JSON, milestone → seconds since ``begun`` and CPU seconds of this process, in the
            order in which they were passed.
        begun: ``time.time()`` when the process was started.
    """
    import lightning as L

    import orca.training
    from orca.stream import TraceDataModule
    from orca.traces import source
    from orca.training import ExplanationTuning, RunProgress

    passed: dict[str, tuple[float, float]] = {}

    def now() -> tuple[float, float]:
        return time.time() - begun, time.process_time()

    def mark(name: str, owner: Any, attribute: str, returned: bool = True) -> None:
        function = getattr(owner, attribute)

        def marked(*args: Any, **kwargs: Any) -> Any:
            if not returned:
                passed.setdefault(name, now())
            value = function(*args, **kwargs)
            passed.setdefault(name, now())
            if name == LAST:
                result.write_text(json.dumps(passed), encoding="utf-8")
            return value

        setattr(owner, attribute, marked)

    mark(IMPORTS, orca.training, "train_stage", returned=False)
    mark("the data's files opened (first start: converted)", source, "open_rows")
    mark("held-out traces found", TraceDataModule, "held_out_traces")
    mark(MODEL, ExplanationTuning, "configure_model")
    mark("validated", L.Trainer, "validate")
    mark("epoch shuffled", Shuffle, "order")
    mark("first batch there (workers started)", RunProgress, "on_train_batch_start", returned=False)
    mark(LAST, ExplanationTuning, "training_step")
    sys.argv = ["train.py", *overrides]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def start(directory: Path) -> dict[str, np.ndarray]:
    """Start `train.py` on the Parquet file; (seconds, CPU seconds) of each phase up to the first
    step's end."""
    result = directory / "start.json"
    result.unlink(missing_ok=True)
    options = [
        "model=tiny",
        "data=openorca",
        "data.global_batch=8",  # keeps the model's share of the first step small
        f"data.path={directory}",
        "callbacks.answers.questions=0",
        "callbacks.checkpoints=null",
        "logger=csv",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        f"paths.runs={directory / 'runs'}",
        "overwrite=true",
    ]
    environment = {**os.environ, "ORCA_CACHE": str(directory / "cache")}
    log = directory / "start.log"
    with log.open("w") as output:
        command = [sys.executable, __file__, "--train", str(result), str(time.time()), *options]
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode or not result.exists():
        sys.exit(f"train.py failed:\n{log.read_text()[-3000:]}")
    passed = json.loads(result.read_text(encoding="utf-8"))
    names = sorted(passed, key=lambda name: passed[name][0])
    moments = np.array([[0.0, 0.0], *(passed[name] for name in names)])
    return dict(zip(names, np.diff(moments, axis=0), strict=True))


def loader(directory: Path, tokenizer: Any) -> StepLoader:
    """What training reads from, for stage 1 of data=openorca."""
    stream = PackStream(
        TraceSource(NAME, "openorca", str(directory), teacher="chatgpt"),
        Encoder(tokenizer, TEMPLATE, CAPACITY),
        Shuffle(),
        epochs=1,
        seed=17,
        capacity=CAPACITY,
        window=256,
        held_out=HeldOut(0.002),
        on_bad_row="skip",
        num_workers=WORKERS,
    )
    return StepLoader(stream, global_batch=GLOBAL_BATCH, micro_batch=1)


def waiting(
    directory: Path, tokenizer: Any, rate: float, steps: int
) -> tuple[float, float, float, float]:
    """Consume at most ``rate`` tokens/s.

    Returns:
        Share of time spent waiting, longest wait of a step, tokens/s (all without the first step,
        which starts the workers), and the first step's wait.
    """
    waits, tokens, first = [], 0, 0.0
    started = time.perf_counter()
    for number, step in enumerate(loader(directory, tokenizer)):
        time.sleep(step.num_tokens / rate)
        if number == 0:
            first, started = step.wait_seconds, time.perf_counter()
            continue
        waits.append(step.wait_seconds)
        tokens += step.num_tokens
        if number == steps:
            break
    elapsed = time.perf_counter() - started
    return sum(waits) / elapsed, max(waits), tokens / elapsed, first


def memory_of(process: int) -> dict[str, float]:
    """MiB of a process: ``Rss`` (all resident), ``Pss`` (shared pages divided among those that
    share them), ``Anonymous`` (its own, no file behind it)."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    fields = dict(re.findall(r"^(Rss|Pss|Anonymous): +(\d+) kB", text, re.MULTILINE))
    return {name: int(kilobytes) / 1024 for name, kilobytes in fields.items()}


def report_memory(directory: Path, tokenizer: Any, examples: int) -> list[str]:
    """Memory over ``examples`` examples at full speed, as lines of the page."""
    lines, read, due = [], 0, 0
    started = time.perf_counter()
    for step in loader(directory, tokenizer):
        read += len(step.example_ids)
        if read < due:
            continue
        due += examples // SAMPLES
        main = memory_of(os.getpid())
        workers = [memory_of(worker.pid or 0) for worker in multiprocessing.active_children()]
        total = main["Pss"] + sum(worker["Pss"] for worker in workers)
        most = {name: max(w[name] for w in workers) for name in ("Rss", "Anonymous")}
        lines.append(
            f"| {read:,} | {main['Rss']:,.0f} | {main['Anonymous']:,.0f} | {most['Rss']:,.0f} "
            f"| {most['Anonymous']:,.0f} | {total:,.0f} |"
        )
        print(lines[-1], flush=True)
        if read >= examples:
            break
    speed = read / (time.perf_counter() - started)
    return [
        "## Memory",
        "",
        f"The same loader at full speed ({speed:,.0f} examples/s); MiB, the larger of the workers. "
        "Resident counts shared pages in every process, among them what a worker has from the main "
        "process since the fork, libraries included; anonymous is memory without a file behind it; "
        "the last column divides shared pages among those that share them (in the first row the "
        "workers have not yet written to what they share with the main process).",
        "",
        "| examples | main, resident | main, anonymous | worker, resident | worker, anonymous "
        "| all processes |",
        "| --- | --- | --- | --- | --- | --- |",
        *lines,
    ]


def report_start(directory: Path) -> list[str]:
    """First and second start, as lines of the page."""
    shutil.rmtree(directory / "cache", ignore_errors=True)
    with (directory / NAME).open("rb") as file:  # out of the page cache, once it is written
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    load = os.getloadavg()[0]
    first, second = start(directory), start(directory)
    lines = [
        "## From the start of `train.py` to its first optimizer step",
        "",
        "`model=tiny data=openorca` with its byte tokenizer, 8 packs of 2,048 a step, 2 workers. "
        "First start: empty cache, the Parquet file not in memory. In brackets CPU seconds of the "
        f"main process. Load average before: {load:.1f}; priority (nice): {os.nice(0)}.",
        "",
        "| seconds until | first start | second start |",
        "| --- | --- | --- |",
        *(f"| {name} | {_both(first[name])} | {_both(second[name])} |" for name in first),
    ]
    for label, skipped in (("all", []), ("all but imports and model", [IMPORTS, MODEL])):
        sums = [
            np.sum([one[name] for name in one if name not in skipped], axis=0)
            for one in (first, second)
        ]
        lines.append(f"| **{label}** | **{_both(sums[0])}** | **{_both(sums[1])}** |")
    return lines


def _both(seconds: np.ndarray) -> str:
    return f"{seconds[0]:.1f} ({seconds[1]:.1f})"


def report_waiting(directory: Path, tokenizer: Any, rates: list[float], steps: int) -> list[str]:
    """Waiting at every rate, as lines of the page."""
    lines = [
        "## Waiting for data",
        "",
        f"SmolLM2's tokenizer, {GLOBAL_BATCH} packs of {CAPACITY:,} a step, {WORKERS} workers, "
        f"{steps} steps after the first ({5 * steps} where all is taken). The consumer sleeps for "
        f"a step's tokens at the rate. Priority (nice): {os.nice(0)}.",
        "",
        "| tokens/s wanted | had | share of time waiting | longest wait | first step's | load |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rate in rates:
        # Without a rate, what was read ahead must not count for much.
        number = steps if rate < float("inf") else 5 * steps
        share, longest, had, first = waiting(directory, tokenizer, rate, number)
        wanted = f"{rate:,.0f}" if rate < float("inf") else "all"
        lines.append(
            f"| {wanted} | {had:,.0f} | {share:.2%} | {longest * 1000:,.0f} ms | {first:.1f} s "
            f"| {os.getloadavg()[0]:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Make the file, measure, write the result page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", type=Path, required=True, help="for data, cache and runs")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--steps", type=int, default=20, help="of each rate")
    parser.add_argument("--examples", type=int, default=1_000_000, help="of the memory test")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[40_000, 80_000, float("inf")], metavar="TOKENS/S"
    )
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    directory: Path = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / NAME
    if not file.exists() or pq.read_metadata(file).num_rows != arguments.rows:
        # In a process of its own, which takes its memory with it.
        writer = multiprocessing.Process(target=write_parquet, args=(file, arguments.rows))
        writer.start()
        writer.join()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = SMOLLM2.tokenizer()
    TEMPLATE.prepare(tokenizer)
    os.environ["ORCA_CACHE"] = str(directory / "cache")
    reports = {
        "start": lambda: report_start(directory),
        "waiting": lambda: report_waiting(directory, tokenizer, arguments.rates, arguments.steps),
        "memory": lambda: report_memory(directory, tokenizer, arguments.examples),
    }
    for part in arguments.parts:
        text = "\n".join(reports[part]()) + "\n"
        (directory / f"{part}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    page = arguments.output / f"data_side_{machine}_{datetime.date.today().isoformat()}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    measured = [directory / f"{part}.md" for part in PARTS]
    parts = [part.read_text(encoding="utf-8") for part in measured if part.exists()]
    page.write_text("\n".join([head(arguments, file), *parts]), encoding="utf-8")
    print(f"written: {page}")


def head(arguments: argparse.Namespace, file: Path) -> str:
    """What was measured, with what, on what."""
    names = ("pyarrow", "torch", "tokenizers", "lightning")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    lines = [
        "# The data side at the size of stage 1",
        "",
        f"- Command: `python benchmarks/data_side.py --directory … --rows {arguments.rows} "
        f"--steps {arguments.steps} --examples {arguments.examples}`",
        f"- Hardware: {cpu_name()}. {platform.system()}.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        f"- Data: {arguments.rows:,} rows of OpenOrca's columns, Parquet of "
        f"{file.stat().st_size / 1e9:.1f} GB in {pq.read_metadata(file).num_row_groups} row "
        "group(s); texts are pieces of "
        + ("FLAN CoT." if os.environ.get("ORCA_SHARED_DATA") else "the sample traces."),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train_with_times(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    else:
        main()
