"""benchmarks/collect_load.py in short: three servers that limit and fail, a collector that is
killed, and the proof from its ledger and their logs, which must find what is wrong where something
is."""

from __future__ import annotations

import copy
import shutil
from argparse import Namespace

import pytest
from collect_load import page
from load_evidence import REPEATED, Evidence
from load_run import Run, collect


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Evidence]:
    directory = tmp_path_factory.mktemp("load")
    options = Namespace(queries=600, kills=2, faults=0.2, seed=1, directory=directory)
    run, evidence = collect(options)
    text = page(options, run, evidence)
    assert "SIGKILL: 2 while it asks. 600 queries came to" in text
    shutil.rmtree(directory)
    return run, evidence


def test_every_query_ends_once_and_nothing_is_paid_after_its_outcome(
    killed: tuple[Run, Evidence],
) -> None:
    run, evidence = killed
    assert evidence.violations() == dict.fromkeys(evidence.violations(), 0)
    assert len(run.lives) == 3 and run.kills == ["asks", "asks"]
    results, paid = evidence.results(), evidence.times_paid()
    assert results["interrupted"] > 0, "nothing was in flight: the kills tested nothing"
    assert paid.total() - len(paid) <= sum(results[kind] for kind in REPEATED)
    faults = {line["fault"] for lines in evidence.arrived.values() for line in lines}
    assert len(faults) > 15 and {"hang", "cut_json", "duplicate_open", "too_long"} <= faults
    assert all(len(lines) > 20 for lines in evidence.arrived.values()), "all three were asked"


def test_the_proof_finds_what_is_wrong(killed: tuple[Run, Evidence]) -> None:
    _, evidence = killed

    def found(**changes: object) -> set[str]:
        changed = copy.copy(evidence)
        for name, value in changes.items():
            setattr(changed, name, value)
        return {name for name, n in changed.violations().items() if n}

    (key, outcome, response, at), *rest = evidence.replies
    other = next(reply for reply in rest if reply[2] not in ("", response))
    assert "queries without an outcome" in found(replies=rest)
    assert "queries with two outcomes" in found(replies=[*evidence.replies, other])
    changed = [(key, outcome, other[2], at), *rest]
    assert found(replies=changed) == {"answers that are another query's"}
    assert "outcomes other than the server's" in found(replies=[(key, "failed", "", at), *rest])
    late = {"key": key, "arrived": at + 1, "time": at + 1, "fault": None}
    assert "requests after the query's outcome" in found(arrived={"a": [late]})
    paid = [line for lines in evidence.paid.values() for line in lines]
    assert "answers paid after the query's outcome" in found(paid={"a": [*paid, late]})
    first = next(line for line in paid if evidence.times_paid()[line["key"]] == 1)
    again = {"a": [*paid, *[first] * 20]}
    assert {name[:18] for name in found(paid=again)} == {"answers paid again"}
    assert found(sent=[]) >= {"requests that the ledger does not know"}
    assert found(ended={}) >= {"attempts without an end"}
    assert found(traces=evidence.traces[1:]) == {"finished queries that are not one trace"}
