"""Memory of loading and exporting a sharded model, and time of a weight difference.

    python benchmarks/weights.py

Two CPU ranks (gloo, FSDP2) load a random Llama-shaped model of 1.5 GB in float32 and export it in
files of 200 MB; for comparison, its state is then gathered on rank 0 as a whole, as exports often
do. Memory is the anonymous memory of each process (RssAnon: what the system cannot drop; mapped
weight files are not in it), sampled every 5 ms, above what it had before. The difference is that
of SmolLM2-135M with noise added to every weight; hashing is part of it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from train_step_cpu import SMOLLM2, cpu_name

from orca.training import Pretrained, Student, byte_tokenizer, export, weights_hash
from orca.training.sharding import load_shards, shard
from orca.weight_difference import apply_difference, make_difference

RANKS = 2
SHARD = 200_000_000
REPEATS = 5
FACTS: dict[str, Any] = {"stage": "s", "fingerprint": {}, "card": ""}
ARCHITECTURE = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "tie_word_embeddings": False,
}


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon: this needs Linux")


def peak(work: Callable[[], Any]) -> tuple[int, float]:
    """Most anonymous bytes while ``work`` runs, above those before it, and its seconds."""
    before, most, done = anonymous_bytes(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], anonymous_bytes() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    return max(most[0], anonymous_bytes() - before), seconds


def rank(number: int, directory: Path) -> None:
    """Load, export, gather as a whole; leaves the figures of this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/store", rank=number, world_size=RANKS)
    source = Pretrained("random", str(directory / "source"), 1.0)
    model = source.meta_model()
    student = Student(model)
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    shard(student, mesh, None)
    options = {**FACTS, "dtype": "float32", "max_shard_bytes": SHARD}
    figures = {
        "load": peak(lambda: load_shards(model, source.directory(), torch.device("cpu"))),
        "export": peak(lambda: export(model, byte_tokenizer(), directory / "hf", **options)),
    }
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    figures["whole"] = peak(lambda: get_model_state_dict(model, options=whole))
    (directory / f"rank{number}.json").write_text(json.dumps(figures))
    dist.destroy_process_group()


def memory(directory: Path) -> list[str]:
    """Rows of the table of memory."""
    model = Pretrained("random", "random", 1.0, architecture=ARCHITECTURE).model()
    total = sum(parameter.nbytes for parameter in model.parameters())
    largest = max(parameter.nbytes for parameter in model.parameters())
    export(model, byte_tokenizer(), directory / "source", **FACTS, dtype="float32")
    del model
    mp.spawn(rank, (directory,), nprocs=RANKS)
    assert sum(1 for _ in (directory / "hf").glob("model-*.safetensors")) > 5
    figures = [json.loads((directory / f"rank{r}.json").read_text()) for r in range(RANKS)]
    rows = [
        f"Weights {total / 1e6:,.0f} MB, largest tensor {largest / 1e6:,.0f} MB, files of at most "
        f"{SHARD / 1e6:,.0f} MB, {RANKS} ranks of one node.",
        "",
        "| | rank 0, peak MB | rank 1, peak MB | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for key, name in (
        ("load", "load: each rank its own rows"),
        ("export", "export, tensor by tensor"),
        ("whole", "for comparison: the whole state on rank 0"),
    ):
        peaks = " | ".join(f"{f[key][0] / 1e6:,.0f}" for f in figures)
        rows.append(f"| {name} | {peaks} | {figures[0][key][1]:.1f} |")
    return rows


def difference(directory: Path) -> list[str]:
    """Rows of the table of weight differences."""
    rows = [
        "| dtype | tuned weights | make, s | apply, s | result |",
        "| --- | --- | --- | --- | --- |",
    ]
    model, tokenizer, base = SMOLLM2.model(), SMOLLM2.tokenizer(), SMOLLM2.directory()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    for dtype in ("float32", "bfloat16"):
        tuned = directory / dtype
        handoff = export(model, tokenizer, tuned, **FACTS, dtype=dtype)
        size = (tuned / "model.safetensors").stat().st_size / 1e6
        seconds: dict[str, list[float]] = {"make": [], "apply": []}
        for repeat in range(REPEATS):
            made, again = directory / f"{dtype}-made{repeat}", directory / f"{dtype}-again{repeat}"
            started = time.perf_counter()
            make_difference(base, tuned, made)
            middle = time.perf_counter()
            apply_difference(base, made, again)
            seconds["make"].append(middle - started)
            seconds["apply"].append(time.perf_counter() - middle)
            assert weights_hash(again) == handoff["weights"], "the weight files differ"
        middles = " | ".join(f"{statistics.median(seconds[k]):.2f}" for k in ("make", "apply"))
        rows.append(f"| {dtype} | {size:,.0f} MB | {middles} | weight files equal byte by byte |")
    return rows


def main() -> None:
    """Measure and write the result file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = [*memory(Path(name)), "", *difference(Path(name))]
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "safetensors"))
    lines = [
        "# Weights: memory of loading and exporting, time of a weight difference",
        "",
        "- Command: `python benchmarks/weights.py`",
        f"- Hardware: {cpu_name()}; the machine is shared. One thread per rank. No GPU.",
        f"- Versions: Python {platform.python_version()}, {versions}.",
        "- Memory: peak anonymous memory of a process above what it had before (RssAnon, sampled "
        "every 5 ms); one run.",
        f"- Difference: base SmolLM2-135M-Instruct in float32, {REPEATS} repeats, median.",
        "",
        *rows,
    ]
    hardware = cpu_name().lower().replace(" ", "-").replace(",", "-")
    file = Path(__file__).parent / "results" / f"weights_{hardware}_{datetime.date.today()}.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
