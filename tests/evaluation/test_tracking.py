"""What W&B has of an evaluation, read back from the file of an offline run."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report_page import HIDDEN, make_results

from orca.evaluation import log_results
from orca.evaluation.results import Results
from orca.evaluation.tracking import metrics
from orca.training import wandb_logger

BLOCK = 32_768


def records(file: Path) -> Iterator[Any]:
    """Records of a .wandb file, which is a LevelDB log: 7 bytes before the first, blocks of 32 KB.

    Each chunk has a checksum, a length, and whether it is whole (1), or the first (2), a middle (3)
    or the last (4) of a record.
    """
    from wandb.proto import wandb_internal_pb2

    content, place, record = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):
            return
        data = content[place + 7 : place + 7 + length]
        assert checksum == zlib.crc32(data, zlib.crc32(bytes([kind])))
        place += 7 + length
        record = data if kind in (1, 2) else record + data
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results()


@pytest.fixture(scope="module")
def offline(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an offline run with the results."""
    directory = tmp_path_factory.mktemp("run")
    logger = wandb_logger(str(directory), "orca", "a run", None, "offline", [])
    log_results(results, logger)
    logger.experiment.finish()
    (run,) = (directory / "wandb").glob("offline-run-*")
    file, deadline = next(run.glob("*.wandb")), time.monotonic() + 60
    while not any(one.WhichOneof("record_type") == "exit" for one in records(file)):
        assert time.monotonic() < deadline, "W&B's own process did not end its file"
        time.sleep(0.1)
    return run


@pytest.fixture(scope="module")
def logged(offline: Path) -> dict[str, Any]:
    """Everything that was logged, by name; the last value counts."""
    found: dict[str, Any] = {}
    for record in records(next(offline.glob("*.wandb"))):
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            if inner:  # a table is logged as a dictionary, a value each
                found.setdefault(name, {})["/".join(inner)] = value
            else:
                found[name] = value
    return found


def test_every_score_is_a_metric_in_per_cent(results: Results, logged: dict[str, Any]) -> None:
    wanted = metrics(results)
    assert {name: logged.get(name) for name in wanted} == pytest.approx(wanted)
    head = "a run (orca, message 5)"
    average = results.scores["bbh"][head][-1]
    assert wanted[f"eval/bbh/accuracy/{head}"] == average.accuracy.value
    assert len([name for name in wanted if name.startswith("eval/bbh/")]) == 3 * 3 * 24
    assert f"eval/vicuna/of_ChatGPT/{head}" in wanted
    assert wanted["eval/toxigen/hate/average/mean"] == pytest.approx(0.2)


def test_the_metric_of_a_single_run_has_its_plain_name(results: Results) -> None:
    results = Results("m", {}, scores={"bbh": {"m (orca)": results.scores["bbh"].popitem()[1]}})
    assert {"eval/bbh/navigate/accuracy", "eval/bbh/format_failures"} <= set(metrics(results))


def test_tables_have_the_reports_cells(
    results: Results, logged: dict[str, Any], offline: Path
) -> None:
    kept = [logged[name] for name in logged if name.startswith("tables/")]
    tables = [*results.tables, *results.details]
    assert len(kept) == len(tables) == 15
    for table, reference in zip(tables, kept, strict=True):
        assert reference["_type"] == "table-file"
        found = json.loads((offline / "files" / reference["path"]).read_text())
        columns, rows = table.values()
        assert found["columns"] == columns and found["data"] == rows


def test_each_benchmark_and_message_has_a_plot(logged: dict[str, Any], offline: Path) -> None:
    plots = [name for name in logged if name.startswith("plots/")]
    assert len(plots) == 9
    found = json.loads((offline / "files" / logged[plots[0]]["path"]).read_text())
    assert found["columns"] == ["task", "accuracy, %"] and len(found["data"]) == 8


def test_the_configuration_is_the_facts_and_no_text_is_sent(
    results: Results, offline: Path
) -> None:
    config = {}
    for record in records(next(offline.glob("*.wandb"))):
        updates = [*record.run.config.update, *record.config.update]
        config |= {one.key: json.loads(one.value_json) for one in updates}
    assert {name: config[name] for name in results.facts} == results.facts
    assert config["about"] == results.about
    files = [file for file in offline.rglob("*") if file.is_file()]
    assert len(files) > 15
    for file in files:
        for text in (HIDDEN, "An <i>answer</i>"):
            assert text.encode() not in file.read_bytes(), file
