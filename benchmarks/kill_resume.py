"""Does a run that is killed again and again end as one that is not?

    python benchmarks/kill_resume.py --kills 30 --out benchmarks/results

A run on two CPU ranks (FSDP2 over gloo, two tokenising workers each) is started with
``resume=auto`` and SIGKILLed, over and over: everything at a random moment from the start on, in a
step, while a checkpoint is being written; one rank alone, the launcher alone, a tokenising worker
alone. Validation, best weights and checkpoints go on meanwhile. Then it is left to end. Its losses,
learning rates, gradient norms and exported weights are compared, bit for bit, with those of the
same run without kills. After that: a checkpoint of {1, 2, 4} ranks goes on with {1, 2, 4} ranks.

The model is small and random: what is tested is the machinery, and a step must be short.
"""

from __future__ import annotations

import argparse
import collections
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import lightning
import psutil
import torch
from safetensors.torch import load_file

from orca.training import checkpoints, read_metrics, weights_hash

ROOT = Path(__file__).parent.parent
ALL_AT_ONCE = ("any moment", "in or between steps", "checkpoint being written")
ALONE = ("worker alone", "rank alone", "launcher alone")
KINDS = tuple(kind for pair in zip(ALL_AT_ONCE, ALONE, strict=True) for kind in pair)


@dataclass
class Setting:
    """One run: where it lies and how it is started."""

    runs: Path
    steps: int
    options: list[str] = field(default_factory=list)

    def command(self, name: str, ranks: int, *more: str) -> list[str]:
        strategy = ["strategy=single"] if ranks == 1 else ["strategy=fsdp"]
        return [
            sys.executable,
            str(ROOT / "train.py"),
            f"paths.runs={self.runs}",
            f"run={name}",
            f"trainer.max_steps={self.steps}",
            *strategy,
            f"trainer.devices={ranks}",
            "model=tiny",
            "model.architecture.hidden_size=256",
            "model.architecture.intermediate_size=512",
            "logger=csv",
            "precision=32-true",
            "trainer.accelerator=cpu",
            "trainer.val_check_interval=20",
            "epochs=100",
            "data.global_batch=4",
            "data.num_workers=2",
            "data.held_out_examples=8",
            "callbacks.answers.questions=0",
            "callbacks.checkpoints.every_n_steps=5",
            *self.options,
            *more,
        ]

    def stage(self, name: str) -> Path:
        return self.runs / name / "flan5m_chatgpt"

    def start(self, name: str, ranks: int, *more: str) -> subprocess.Popen[str]:
        log = (self.runs / f"{name}.log").open("a")
        return subprocess.Popen(
            self.command(name, ranks, *more),
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    def finish(self, name: str, ranks: int, *more: str) -> None:
        status = self.start(name, ranks, *more).wait()
        if status:
            log = self.runs / f"{name}.log"
            raise SystemExit(f"{name}: status {status}; see {log}\n{log.read_text()[-2000:]}")


def trained(stage: Path) -> list[tuple[int, str, float]]:
    """Every logged loss, gradient norm, learning rate and progress."""
    file = stage / "metrics.csv"
    rows = read_metrics(file) if file.exists() else []
    return [row for row in rows if row[1].startswith(("train/", "data/"))]


def steps_done(stage: Path) -> int:
    return sum(1 for _, name, _ in trained(stage) if name == "train/loss")


def kill_everything(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the launcher, its ranks and their workers, as a power cut would."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    for one in [*tree, psutil.Process(process.pid)]:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def processes_of(process: subprocess.Popen[str]) -> tuple[list[Any], list[Any]]:
    """(ranks, tokenising workers) of a run."""
    ranks, workers = [], []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            parent = child.parent()
            if "RANK" not in child.environ() or "resource_tracker" in " ".join(child.cmdline()):
                continue
            if parent is not None and parent.pid == process.pid:
                ranks.append(child)
            else:
                workers.append(child)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return ranks, workers


def wait_for_moment(
    kind: str, process: subprocess.Popen[str], stage: Path, chance: random.Random
) -> None:
    """Until it is time to kill."""
    if kind == "any moment":
        end = time.time() + chance.uniform(0, 15)
        while time.time() < end and process.poll() is None:
            time.sleep(0.01)
        return
    wanted = steps_done(stage) + chance.randint(1, 12)
    while steps_done(stage) < wanted and process.poll() is None:
        time.sleep(0.01)
    if kind == "checkpoint being written":
        while process.poll() is None and not list((stage / "checkpoints").glob("*.partial")):
            time.sleep(0.0005)
    time.sleep(chance.random() * 0.02)


def one_life(setting: Setting, name: str, kind: str, chance: random.Random) -> tuple[int, str]:
    """Start (or go on with) the run and kill it; (steps done so far, what was hit)."""
    process = setting.start(name, 2, "resume=auto")
    stage = setting.stage(name)
    wait_for_moment(kind, process, stage, chance)
    if process.poll() is not None:
        return steps_done(stage), "the run had ended"
    ranks, workers = processes_of(process)
    victims = {"worker alone": workers, "rank alone": ranks}.get(kind, [])
    if kind in ALL_AT_ONCE or (kind != "launcher alone" and not victims):
        kill_everything(process)
        left = list((stage / "checkpoints").glob("*.partial"))
        if kind == "checkpoint being written" and not left:
            return steps_done(stage), "just after a checkpoint was written"
        return steps_done(stage), kind if kind in ALL_AT_ONCE else "in or between steps"
    if kind == "launcher alone":
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(ranks + workers, timeout=10)
        if alive:
            raise SystemExit(f"{len(alive)} processes outlived their launcher")
        return steps_done(stage), kind
    chance.choice(victims).kill()
    status = process.wait()
    if status != 75:
        raise SystemExit(f"{kind}: status {status} where 75 is expected; see {name}.log")
    return steps_done(stage), kind


def run_with_kills(setting: Setting, kills: int, seed: int) -> collections.Counter[str]:
    chance, hit = random.Random(seed), collections.Counter[str]()
    while hit.total() < kills:
        kind = KINDS[hit.total() % len(KINDS)]
        steps, what = one_life(setting, "killed", kind, chance)
        if what == "the run had ended":
            raise SystemExit(f"the run ended after {hit.total()} kills: raise --steps")
        hit[what] += 1
        print(f"kill {hit.total():3d}: {what}, at step {steps}", flush=True)
    setting.finish("killed", 2, "resume=auto")
    return hit


def elastic_matrix(setting: Setting) -> list[tuple[int, int, int, float, float]]:
    """(from ranks, to ranks, step, largest relative loss difference, largest weight difference)."""
    reference = setting.stage("one_rank")
    if not (reference / "results.json").exists():
        setting.finish("one_rank", 1, "overwrite=true")
    expected = [v for _, n, v in trained(reference) if n == "train/loss"]
    weights = load_file(reference / "hf/model.safetensors")
    table = []
    for first in (1, 2, 4):
        name = f"from{first}"
        process = setting.start(name, first, "overwrite=true")
        while steps_done(setting.stage(name)) < setting.steps // 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        if process.wait() != 75:
            raise SystemExit(f"{name} was not stopped: see {setting.runs / name}.log")
        for second in (1, 2, 4):
            copy = f"from{first}to{second}"
            shutil.rmtree(setting.runs / copy, ignore_errors=True)
            shutil.copytree(setting.runs / name, setting.runs / copy)
            (step, _) = checkpoints(setting.stage(copy) / "checkpoints")[-1]
            config = setting.stage(copy) / "config.yaml"
            config.write_text(config.read_text().replace(f"run: {name}\n", f"run: {copy}\n"))
            setting.finish(copy, second, "resume=auto")
            got = [v for _, n, v in trained(setting.stage(copy)) if n == "train/loss"]
            ours = load_file(setting.stage(copy) / "hf/model.safetensors")
            if len(got) != len(expected):
                raise SystemExit(f"{copy}: {len(got)} steps where {len(expected)} are expected")
            off = max(abs(a - b) / b for a, b in zip(got, expected, strict=True))
            far = max(float((ours[k] - weights[k]).abs().max()) for k in weights)
            table.append((first, second, step, off, far))
            print(f"{first} -> {second} ranks at step {step}: loss {off:.1e}, weights {far:.1e}")
    return table


def report(
    arguments: argparse.Namespace,
    hit: collections.Counter[str],
    equal: tuple[bool, bool],
    table: list[tuple[int, int, int, float, float]],
    seconds: float,
) -> str:
    kinds = "\n".join(f"| {name} | {count} |" for name, count in sorted(hit.items()))
    cells = "\n".join(f"| {a} | {b} | {s} | {o:.1e} | {f:.1e} |" for a, b, s, o, f in table)
    matrix = f"""
## Another number of ranks

A run of a ranks is told to stop (SIGTERM) in the middle and goes on with b, against the run of one
rank (`strategy=single`) without a stop; float32, global batch of 4 packs.

| a | b | stopped after step | largest relative difference of a loss | of a final weight |
| --- | --- | --- | --- | --- |
{cells}
"""
    return f"""# Killed and resumed, against never killed

{date.today().isoformat()}; {arguments.hardware}; {platform.system()}; Python \
{platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}.
Command: `python benchmarks/kill_resume.py --kills {arguments.kills} --steps {arguments.steps} \
--matrix-steps {arguments.matrix_steps} --seed {arguments.seed}`. {seconds / 60:.0f} minutes in all.

One run of {arguments.steps} steps on 2 CPU ranks (FSDP2, gloo), 2 tokenising workers a rank, an
asynchronous checkpoint every 5 steps, validation and best weights every 20; a small random model.
"Alone" ends the others with a sentence and status 75, or, for the launcher, with it.

| SIGKILL | times |
| --- | --- |
{kinds}
| in all | {hit.total()} |

- losses, gradient norms, learning rates and progress of all steps, bit for bit: \
**{"identical" if equal[0] else "DIFFERENT"}**
- exported weights (sha256): **{"identical" if equal[1] else "DIFFERENT"}**
{matrix if table else ""}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--matrix-steps", type=int, default=60, help="0 leaves the matrix out")
    parser.add_argument("--runs", type=Path, default=Path("runs/kill_resume"))
    parser.add_argument("--hardware", default=f"{platform.machine()}, {os.cpu_count()} cores")
    parser.add_argument("--out", type=Path, help="directory of the result page")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.runs, ignore_errors=True)
    arguments.runs.mkdir(parents=True)
    started = time.perf_counter()
    setting = Setting(arguments.runs, arguments.steps)
    setting.finish("unbroken", 2, "overwrite=true")
    print(f"without kills: {steps_done(setting.stage('unbroken'))} steps", flush=True)
    hit = run_with_kills(setting, arguments.kills, arguments.seed)
    stages = [setting.stage(name) for name in ("unbroken", "killed")]
    equal = (
        trained(stages[0]) == trained(stages[1]) and steps_done(stages[0]) == arguments.steps,
        weights_hash(stages[0] / "hf") == weights_hash(stages[1] / "hf"),
    )
    short = Setting(arguments.runs, arguments.matrix_steps)
    table = elastic_matrix(short) if arguments.matrix_steps else []
    page = report(arguments, hit, equal, table, time.perf_counter() - started)
    print(page)
    if arguments.out:
        kind = arguments.hardware.rpartition(",")[0].lower().replace(" ", "-").replace(",", "-")
        file = arguments.out / f"kill_resume_{kind}_{date.today().isoformat()}.md"
        file.write_text(page, encoding="utf-8")
    if not all(equal) or any(off > 1e-5 or far > 1e-4 for *_, off, far in table):
        raise SystemExit("the runs differ")


if __name__ == "__main__":
    main()
