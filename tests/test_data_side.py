"""benchmarks/data_side.py on a few rows: every part runs and its page holds what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent


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
    first, second = map(float, re.findall(r"model\*\* \| \*\*(.+?)\*\* \| \*\*(.+?)\*\*", text)[0])
    assert 0 < first < 600 and 0 < second < 600
    assert re.search(r"^\| 1,000,000 \| [\d,]+ \| \d+\.\d\d% \|", text, re.MULTILINE)
    memory = re.findall(r"^\| [\d,]+(?: \| [\d,]+){5} \|$", text, re.MULTILINE)
    assert len(memory) >= 2
