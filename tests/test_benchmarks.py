"""Benchmarks that need hardware which is not here still run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_the_cpu_with_tiny_shapes(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/train_step_gpu.py"), "--smoke"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (kept,) = tmp_path.glob("train_step_gpu_cpu_*.json")
    results = json.loads(kept.read_text())["results"]
    assert len(results) >= 7 and not [name for name, row in results.items() if "failed" in row]
    # The levers do not change what is learned: one loss for all cases of ours.
    losses = {round(row["loss"], 2) for name, row in results.items() if "ours" in name}
    assert len(losses) == 1
    report = kept.with_suffix(".md").read_text()
    assert report.count("| ours") >= 7 and "peak unknown, so no MFU" in report


def test_query_sampling_at_a_thousandth_reports_what_it_made(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/query_sampling.py"), "--scale", "0.001"]
    command += ["--directory", str(tmp_path / "bench"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("query_sampling_*.md")
    assert "| peak memory of the process |" in page.read_text()
    assert "'flan2021': 2500" in page.read_text() and "'t0': 2000" in page.read_text()
