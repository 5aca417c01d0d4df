"""The whole program: four collections → two query sets, their manifest and their card."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from submixes import a_mixture, four_submixes, rows_of, write_submix

from orca.errors import UserError
from orca.mixture import (
    AlgorithmOne,
    Collection,
    ExactDuplicates,
    QueryTable,
    TakeAll,
    shows_options,
)
from orca.mixture.build import build_query_sets
from orca.mixture.query_set import read_manifest
from orca.traces import SYSTEM_MESSAGES


@pytest.fixture(scope="module")
def submixes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_submixes(tmp_path_factory.mktemp("submixes"))


@pytest.fixture(scope="module")
def built(submixes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "queries"
    build_query_sets(a_mixture(submixes), out, {"name": "test"})
    return out


def test_every_query_is_a_zero_shot_row_of_its_file(built: Path, submixes: Path) -> None:
    queries = rows_of(built / "flan5m")
    assert len(queries) == 150 + 7 * 30 - short_of(submixes) + 250 + 200
    for query in queries:
        source = pq.read_table(submixes / query["source_file"]).to_pylist()
        row = source[query["source_row"] - 1]
        assert (query["query"], query["targets"]) == (row["inputs"], [row["targets"]])
        assert query["template_type"] == row["template_type"]
        assert query["template_type"].startswith("zs")
        assert query["task"] == row["task_name"]
    assert len({query["id"] for query in queries}) == len(queries)


def short_of(root: Path) -> int:
    """Queries that NiV2's tasks of fewer than 30 rows lack."""
    tables = [pq.read_table(file).to_pylist() for file in sorted((root / "niv2").iterdir())]
    rows = [row for table in tables for row in table if row["template_type"].startswith("zs")]
    counts = Counter(row["task_name"] for row in rows)
    return sum(30 - min(30, counts[f"task12{n}"]) for n in range(7))


def test_flan1m_is_a_subset_with_the_same_system_messages(built: Path) -> None:
    whole = {query["id"]: query for query in rows_of(built / "flan5m")}
    subset = rows_of(built / "flan1m")
    assert len(subset) == 120
    assert all(whole[query["id"]] == query for query in subset)
    assert set(Counter(query["collection"] for query in subset)) == {
        "cot",
        "niv2",
        "flan2021",
        "t0",
    }


def test_system_messages_follow_the_rules_of_the_collections(built: Path) -> None:
    seen: dict[tuple[str, bool], set[int]] = {}
    for query in rows_of(built / "flan5m"):
        assert query["system_message"] == SYSTEM_MESSAGES[query["system_message_id"]]
        assert query["multiple_choice"] == shows_options(query["query"])
        key = (query["collection"], query["multiple_choice"])
        seen.setdefault(key, set()).add(query["system_message_id"])
    assert seen["flan2021", True] == {3, 4, 7, 8, 10}
    assert seen["flan2021", False] == {3, 4, 7}
    assert seen["t0", True] | seen["t0", False] == {1, 2, 3, 5, 7}
    assert seen["cot", True] | seen["cot", False] == {6, 11, 16}


def test_the_order_is_mixed(built: Path) -> None:
    """The first queries are a sample of the whole: a teacher may stop early."""
    first = Counter(query["collection"] for query in rows_of(built / "flan5m")[:200])
    assert min(first[name] for name in ("cot", "niv2", "flan2021", "t0")) >= 15


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(
    built: Path, submixes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    for file in reversed(sorted(submixes.rglob("*.parquet"))):
        target = copy / file.relative_to(submixes)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    build_query_sets(a_mixture(copy), tmp_path / "again", {"name": "test"}, memory_gib=0.5)
    for name in ("flan5m", "flan1m"):
        manifest = read_manifest(built / name)
        assert read_manifest(tmp_path / "again" / name) == manifest
        assert manifest["queries"] > 100
    other = a_mixture(submixes, seed=18)
    build_query_sets(other, tmp_path / "other", {"name": "test"})
    ids = {query["id"] for query in rows_of(built / "flan5m")}
    assert ids != {query["id"] for query in rows_of(tmp_path / "other" / "flan5m")}


def test_another_seed_puts_the_same_queries_in_another_order(
    submixes: Path, tmp_path: Path
) -> None:
    """Where everything is taken, the order and the system messages are all that a seed decides."""
    collections = {"cot": Collection(QueryTable("cot/*"), TakeAll())}
    orders = []
    for seed in (3, 4):
        out = tmp_path / str(seed)
        card = build_query_sets(a_mixture(submixes, collections=collections, seed=seed), out, {})
        assert card["seed"] == read_manifest(out / "flan5m")["seed"] == seed
        orders.append([query["id"] for query in rows_of(out / "flan5m")])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_one_collection_s_queries_do_not_depend_on_the_others(
    built: Path, submixes: Path, tmp_path: Path
) -> None:
    mixture = a_mixture(submixes)
    alone = {**mixture.collections, "cot": None, "niv2": None}
    build_query_sets(a_mixture(submixes, collections=alone), tmp_path / "out", {})
    expected = {
        (query["id"], query["system_message_id"])
        for query in rows_of(built / "flan5m")
        if query["collection"] in ("flan2021", "t0")
    }
    found = {(q["id"], q["system_message_id"]) for q in rows_of(tmp_path / "out" / "flan5m")}
    assert found == expected


def test_removed_queries_are_in_no_set_and_are_listed(submixes: Path, tmp_path: Path) -> None:
    root = tmp_path / "submixes"
    write_submix(root / "cot", "cot_", 5, 100)
    (root / "cot" / "copy.parquet").write_bytes((root / "cot" / "0.parquet").read_bytes())
    collections = {"cot": Collection(QueryTable("cot/*.parquet"), TakeAll())}
    for remove in (True, False):
        mixture = a_mixture(
            root, collections=collections, hygiene={"duplicates": ExactDuplicates(remove=remove)}
        )
        card = build_query_sets(mixture, tmp_path / str(remove), {})
        findings = pq.read_table(tmp_path / str(remove) / "findings.parquet").to_pylist()
        assert len(findings) == 75
        assert {row["removed"] for row in findings} == {remove}
        queries = rows_of(tmp_path / str(remove) / "flan5m")
        assert len(queries) == (75 if remove else 150)
        removed = {row["id"] for row in findings}
        assert not remove or not removed & {query["id"] for query in queries}
        told = card["hygiene"]["checks"]["exact_duplicates"]
        assert (told["found"], told["removed"]) == (75, 75 if remove else 0)


def test_the_card_tells_what_the_scan_and_the_draw_found(submixes: Path, tmp_path: Path) -> None:
    root = tmp_path / "submixes"
    write_submix(root / "t0", "duorc_", 4, 400)
    table = pq.read_table(root / "t0" / "0.parquet").to_pylist()
    table[7]["targets"], table[9]["task_name"] = None, "bigbench_x"
    table[7]["template_type"] = table[9]["template_type"] = "zs_opt"
    pq.write_table(pa.Table.from_pylist(table), root / "t0" / "0.parquet")
    one = Collection(QueryTable("t0/*"), AlgorithmOne(1_000), exclude="duorc_1")
    mixture = a_mixture(
        root, collections={"t0": one}, on_bad_row="skip", sets={"flan5m": None, "flan1m": 900}
    )
    with pytest.raises(UserError, match=r"t0/0\.parquet, row 8: no gold target"):
        build_query_sets(a_mixture(root, collections={"t0": one}), tmp_path / "out", {})
    card = build_query_sets(mixture, tmp_path / "out", {})
    usable = [row for n, row in enumerate(table) if n != 7 and row["task_name"] == "duorc_0"]
    counts = Counter(row["template_type"][:2] for row in usable)
    (zero,) = (task for task in card["tasks"] if task["task"] == "duorc_0")
    assert (zero["candidates"], zero["few_shot"]) == (counts["zs"], counts["fs"])
    assert zero["sampled"] == zero["queries"]["flan5m"] == counts["zs"]
    assert card["bad_rows"]["t0"]["reasons"] == {"missing_target": 1}
    assert card["bad_rows"]["t0"]["examples"] == [
        "missing_target: t0/0.parquet, row 8: no gold target"
    ]
    assert card["excluded"] == {"t0": ["bigbench_x", "duorc_1"]}
    assert card["asked"]["sets"]["flan1m"]["asked"] == 900
    assert {query["task"] for query in rows_of(tmp_path / "out" / "flan5m")} == {"duorc_0"}


def test_the_card_counts_the_pool_of_every_task(built: Path, submixes: Path) -> None:
    card = json.loads((built / "query_card.json").read_text("utf-8"))
    assert list(card["sets"]) == ["flan5m", "flan1m"], "the first is the whole"
    for collection in ("cot", "niv2", "flan2021", "t0"):
        files = sorted((submixes / collection).iterdir())
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        counts = Counter((row["task_name"], row["template_type"][:2]) for row in rows)
        drawn = Counter(
            q["task"] for q in rows_of(built / "flan5m") if q["collection"] == collection
        )
        tasks = [task for task in card["tasks"] if task["collection"] == collection]
        assert {task["task"] for task in tasks} == {name for name, kind in counts if kind == "zs"}
        for task in tasks:
            name = task["task"]
            assert task["candidates"] == counts[name, "zs"]
            assert task["few_shot"] == counts[name, "fs"]
            assert task["sampled"] == drawn[name]


def test_a_collection_without_queries_says_why(submixes: Path, tmp_path: Path) -> None:
    one = Collection(QueryTable("cot/*"), TakeAll(), exclude=["cot_*"])
    with pytest.raises(UserError, match=r"no query to sample among 200 rows .* 150 of excluded"):
        build_query_sets(a_mixture(submixes, collections={"cot": one}), tmp_path / "out", {})


def test_mistakes_of_the_mixture_are_named(submixes: Path, tmp_path: Path) -> None:
    dialog = {"dialog": Collection(QueryTable("x"), TakeAll())}
    with pytest.raises(UserError, match="dialog unknown; the paper samples"):
        a_mixture(submixes, collections=dialog)
    with pytest.raises(UserError, match="on_bad_row='ignore'"):
        a_mixture(submixes, on_bad_row="ignore")
    collections = {"cot": Collection(QueryTable("cot/*"), TakeAll(), exclude=["cot_9*"])}
    with pytest.raises(UserError, match=r"cot\.exclude: no task is called 'cot_9\*'"):
        build_query_sets(a_mixture(submixes, collections=collections), tmp_path / "out", {})


def test_the_program_builds_flan_mini_from_real_data(shared_data: Path, tmp_path: Path) -> None:
    """Table 3's proportions, a thousandth: all four collections in the forms people have."""
    command = [
        sys.executable,
        "-m",
        "orca.mixture",
        "mixture=flan_mini",
        f"out={tmp_path / 'mini'}",
    ]
    done = subprocess.run(
        [*command, "hygiene=report"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    counts = read_manifest(tmp_path / "mini" / "flan5m")["collections"]
    assert counts == {"cot": 150, "flan2021": 2500, "niv2": 420, "t0": 2000}
    assert (tmp_path / "mini" / "query_card.html").stat().st_size > 10_000
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2
    assert "overwrite=true" in again.stderr
