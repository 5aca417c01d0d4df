"""benchmarks/data_side.py on a few rows: every part runs and its page holds what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orca.traces import TraceSource

ROOT = Path(__file__).parent.parent


def test_the_generated_rows_have_the_form_and_the_size_of_openorca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delenv("ORCA_SHARED_DATA", raising=False)
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))
    import data_side

    file = tmp_path / data_side.NAME
    data_side.write_parquet(file, 3000)
    source = TraceSource(str(file), "openorca")
    assert len({source[n].query for n in range(3000)}) > 2990
    assert {source[n].sub_collection for n in range(3000)} == {"flan2021"}
    assert 1400 < source.sizes().mean() < 2000


@pytest.mark.slow
def test_the_benchmark_of_the_data_side_runs_on_a_few_rows(tmp_path: Path) -> None:
    options = ["--rows", "6000", "--steps", "1", "--examples", "400", "--rates", "1e6"]
    program = [sys.executable, str(ROOT / "benchmarks" / "data_side.py"), *options]
    program += ["--directory", str(tmp_path / "data"), "--output", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k != "ORCA_SHARED_DATA"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "data").glob("*.parquet")
    assert pq.read_metadata(file).num_rows == 6000
    (page,) = tmp_path.glob("data_side_*.md")
    text = page.read_text()
    sums = re.search(r"model\*\* \| \*\*([\d.]+) .*?\| \*\*([\d.]+) ", text)
    assert sums is not None
    first, second = float(sums[1]), float(sums[2])
    assert 0 < first < 600 and 0 < second < 600
    assert re.search(r"^\| 1,000,000 \| [\d,]+ \| \d+\.\d\d% \|", text, re.MULTILINE)
    memory = re.findall(r"^\| [\d,]+(?: \| [\d,]+){5} \|$", text, re.MULTILINE)
    assert len(memory) >= 2
