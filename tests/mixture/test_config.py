"""Every option of the groups mixture and hygiene composes and is built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from orca.config import CONF_DIR, check_config
from orca.errors import UserError
from orca.mixture import AlgorithmOne, Mixture, Stratified, TakeAll
from orca.mixture.__main__ import OPTIONS


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        return compose("queries", overrides=list(overrides))


def options(group: str) -> list[str]:
    return sorted(f.stem for f in (CONF_DIR / group).glob("*.yaml") if f.stem != "base")


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A directory with a file of each benchmark: checks look for them when they are built."""
    for name in ("bbh/a.json", "agieval/a.jsonl", "truthfulqa/v1/TruthfulQA.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("hygiene", options("hygiene"))
@pytest.mark.parametrize("mixture", options("mixture"))
def test_every_option_composes_and_is_built(mixture: str, hygiene: str, benchmarks: Path) -> None:
    config = composed(f"mixture={mixture}", f"hygiene={hygiene}", "mixture.path=x")
    config.paths.benchmarks = str(benchmarks)
    check_config(config, OPTIONS)
    built = instantiate(config.mixture, _convert_="all")
    assert isinstance(built, Mixture)
    assert list(built.chosen()) == ["cot", "flan2021", "niv2", "t0"]
    removing = {name for name, check in built.hygiene.items() if check.remove}
    kinds = {"lengths", "language", "exact_duplicates", "contamination"}
    assert removing == (kinds if hygiene == "standard" else set())
    assert len(built.hygiene) == (0 if hygiene == "none" else 5)


def test_flan_is_sampled_as_table_3_says() -> None:
    built = instantiate(composed("mixture=flan", "mixture.path=x").mixture, _convert_="all")
    samplers = {name: one.sampler for name, one in built.chosen().items()}
    assert isinstance(samplers["cot"], TakeAll)
    assert isinstance(samplers["niv2"], Stratified) and samplers["niv2"].per_task == 300
    assert isinstance(samplers["flan2021"], AlgorithmOne)
    assert (samplers["flan2021"].queries, samplers["flan2021"].cap_per_task) == (2_500_000, 10**6)
    assert (samplers["t0"].queries, samplers["t0"].cap_per_task) == (2_000_000, None)
    assert built.sets == {"flan5m": None, "flan1m": 1_000_000}


def test_the_seed_reaches_draws_and_system_messages() -> None:
    built = instantiate(composed("mixture.path=x", "seed=5").mixture, _convert_="all")
    assert (built.seed, built.system_messages.seed) == (5, 5)


@pytest.mark.parametrize("source", options("mixture/source"))
def test_every_source_can_be_put_in_the_place_of_another(source: str) -> None:
    place = "mixture/source@mixture.collections.flan2021.source"
    files = [] if source == "flan2021_raw" else ["mixture.collections.flan2021.source.files=a/*"]
    config = composed("mixture=flan_mini", "mixture.path=x", f"{place}={source}", *files)
    check_config(config, OPTIONS)
    built = instantiate(config.mixture.collections.flan2021, _convert_="all")
    expected = {"cot_tables": "CotTables", "niv2_tasks": "NaturalInstructions"}
    kinds = {**expected, "flan2021_raw": "Promptsource"}
    assert type(built.source).__name__ == kinds.get(source, "QueryTable")


def test_the_mixture_in_the_docs_composes_and_is_built(tmp_path: Path) -> None:
    page = (CONF_DIR.parent / "docs" / "queries.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    shutil.copytree(CONF_DIR, tmp_path / "conf")
    (tmp_path / "conf" / "mixture" / "mine.yaml").write_text(text)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        config = compose("queries", overrides=["mixture=mine"])
    check_config(config, OPTIONS)
    built = instantiate(config.mixture, _convert_="all")
    assert list(built.chosen()) == ["flan2021", "t0"]
    assert list(built.sets.items()) == [("pilot", 1000), ("tiny", 100)]


def test_unknown_options_are_named_with_the_nearest_that_exists() -> None:
    config = composed("mixture.path=x", "+mixture.collections.t0.sampler.query=5")
    with pytest.raises(UserError, match=r"Did you mean .*t0\.sampler\.queries"):
        check_config(config, OPTIONS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("mixture=flan", "mixture.path"),
        ("mixture.path=nowhere", "collection cot: no file matches 'nowhere/cot_submix_original"),
        ("mixture=flann", "flann"),
        ("hygiene=standard", "ORCA_SHARED_DATA"),
        ("mixture.sets.flan1m=-3", "mixture.sets.flan1m=-3: a whole number from 1 on"),
        ("mixture.sets.flan5m=10", "flan1m=1000000 is more than the first set, flan5m=10"),
        ("mixture.collections.niv2.sampler.per_task=0", "Stratified.per_task=0"),
        ("mixture.collections.t0.sampler.queries=all", "AlgorithmOne.queries='all'"),
        ("mixture.collections.t0.sampler._target_=orca.mixture.Best", "Best does not exist"),
        ("seed=abc", "seed='abc'"),
        ("memory_gib=lots", "memory_gib='lots'"),
    ],
)
def test_the_program_ends_with_a_sentence(argument: str, message: str, tmp_path: Path) -> None:
    path = [] if argument in ("mixture=flan", "mixture.path=nowhere") else ["mixture.path=nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "orca.mixture", argument, *path],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "ORCA_SHARED_DATA"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
