"""FLAN-5M and FLAN-1M at full size: 120 million candidates sampled to 5 million.

    python benchmarks/query_sampling.py --directory /large/disk/bench

Writes synthetic submixes of the sizes of Table 3 (T0 85.7 M rows in 193 tasks, FLAN 2021 28.9 M in
142, NiV2 5 M in 1,560, CoT 150 K in 18) as Parquet with the columns of the public files and texts
of ``--characters`` random letters, then runs `python -m orca.mixture mixture=flan` on them and
reports time and peak memory of the process, by step. ``--scale 0.1`` makes a tenth of the rows.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from train_step_cpu import cpu_name

from orca.mixture.query_set import read_manifest

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = {  # rows, tasks, largest task, how a task is called
    "cot": (150_000, 18, 37_000, "cot_task_{}"),
    "niv2": (5_000_000, 1_560, 6_500, "task9{:04d}_synthetic"),
    "flan2021": (28_900_000, 142, 1_000_000, "set/{}:1.0.0"),
    "t0": (85_700_000, 193, 3_600_000, "duorc_synthetic_{}"),
}
ROWS_PER_FILE, ROWS_PER_GROUP = 4_000_000, 500_000


def task_sizes(rows: int, tasks: int, largest: int, random: np.random.Generator) -> np.ndarray:
    """Sizes that spread over three orders of magnitude and sum to ``rows``."""
    sizes = random.lognormal(0.0, 1.2, tasks)
    for _ in range(100):  # what is over the largest size goes to the others
        sizes = np.minimum(sizes / sizes.sum() * rows, largest)
    sizes = np.floor(sizes).astype(np.int64)
    sizes[: rows - sizes.sum()] += 1
    return sizes


def write_submix(
    directory: Path, name: str, scale: float, characters: int, random: np.random.Generator
) -> None:
    rows, tasks, largest, label = COLLECTIONS[name]
    sizes = task_sizes(int(rows * scale), tasks, max(1, int(largest * scale)), random)
    codes = np.repeat(np.arange(tasks, dtype=np.int32), sizes)
    random.shuffle(codes)
    names = pa.array([label.format(number) for number in range(1, tasks + 1)])
    kinds = pa.array(["zs_opt", "zs_noopt"])
    folder = directory / f"{name}_submix_original"
    folder.mkdir(parents=True)
    letters = random.integers(97, 123, characters * 4096, dtype=np.uint8).tobytes().decode()
    for first in range(0, len(codes), ROWS_PER_FILE):
        part = codes[first : first + ROWS_PER_FILE]
        with pq.ParquetWriter(
            folder / f"{first:09d}.parquet", _schema(), compression="zstd"
        ) as out:
            for start in range(0, len(part), ROWS_PER_GROUP):
                own = part[start : start + ROWS_PER_GROUP]
                numbers = range(first + start, first + start + len(own))
                offsets = random.integers(0, len(letters) - characters, len(own)).tolist()
                texts = [
                    f"{letters[o : o + characters]} {n}"
                    for o, n in zip(offsets, numbers, strict=True)
                ]
                kind = random.integers(0, 2, len(own), dtype=np.int32)
                table = {
                    "inputs": pa.array(texts),
                    "targets": pa.repeat("yes", len(own)),
                    "task_source": pa.repeat(name, len(own)),
                    "task_name": pa.DictionaryArray.from_arrays(own, names).cast(pa.string()),
                    "template_type": pa.DictionaryArray.from_arrays(kind, kinds).cast(pa.string()),
                }
                out.write_table(pa.table(table, _schema()))


def _schema() -> pa.Schema:
    names = ("inputs", "targets", "task_source", "task_name", "template_type")
    return pa.schema({name: pa.string() for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--characters", type=int, default=24)
    parser.add_argument("--keep", action="store_true", help="use the submixes of an earlier run")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    inputs = options.directory / "submixes"
    if not (options.keep and inputs.exists()):
        shutil.rmtree(inputs, ignore_errors=True)
        random = np.random.default_rng(0)
        for name in COLLECTIONS:
            write_submix(inputs, name, options.scale, options.characters, random)
            print(f"{name} written", flush=True)
    out = options.directory / "queries"
    scaled = [
        f"mixture.collections.{name}.sampler.queries={int(queries * options.scale)}"
        for name, queries in (("flan2021", 2_500_000), ("t0", 2_000_000))
    ]
    command = [sys.executable, "-m", "orca.mixture", "mixture=flan", "overwrite=true"]
    command += [f"mixture.path={inputs}", f"out={out}", *scaled]
    start = time.monotonic()
    subprocess.run(command, check=True, cwd=options.directory)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    report(options, out, inputs, seconds, peak)


def report(
    options: argparse.Namespace, out: Path, inputs: Path, seconds: float, peak: float
) -> None:
    card = json.loads((out / "query_card.json").read_text())
    manifest, subset = read_manifest(out / "flan5m"), read_manifest(out / "flan1m")
    rows = sum(pq.read_metadata(file).num_rows for file in inputs.rglob("*.parquet"))
    size = sum(file.stat().st_size for file in inputs.rglob("*.parquet")) / 1e9
    cores = len(os.sched_getaffinity(0))
    software = f"Python {platform.python_version()}"
    for name in ("duckdb", "numpy", "pyarrow"):
        software += f", {name} {importlib.metadata.version(name)}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    today = datetime.date.today().isoformat()
    command = f"python benchmarks/query_sampling.py --directory DIR --scale {options.scale:g}"
    command += f" --characters {options.characters}"
    page = f"""# Sampling the query sets at full size

- Command: `{command}`, {today}
- Hardware: {cpu_name()} ({cores} used); load average at the end {load}
- Versions: {software}
- Data: synthetic submixes, {rows:,} rows in Parquet ({size:.1f} GB), texts of {options.characters}
  random letters and a number; the peak is the process's resident memory, mapped files included

| | measured | goal |
| --- | --- | --- |
| candidates | {rows:,} | 117 M |
| FLAN-5M | {manifest["queries"]:,} queries | 5 M |
| FLAN-1M | {subset["queries"]:,} queries | 1 M |
| whole program | {seconds / 60:.1f} min | 10 min |
| peak memory of the process | {peak:.2f} GiB | 6 GiB |

| step | seconds |
| --- | --- |
"""
    page += "".join(f"| {name} | {value} |\n" for name, value in card["seconds"].items())
    page += f"\nCollections: {manifest['collections']}.\n"
    cpu = cpu_name().lower().replace(" ", "-").replace(",", "-")
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"query_sampling_{options.characters}_characters_{cpu}_{today}.md"
    (options.output / name).write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
