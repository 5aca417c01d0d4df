"""Ranks that another launcher started must not each train alone."""

import pytest
from conftest import compose_config

from orca.errors import UserError
from orca.training import needs_ranks


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_a_rank_of_an_unknown_launcher_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_config("model=tiny")
    assert needs_ranks(config) is False
    for alone in ("1", ""):
        monkeypatch.setenv(name, alone)
        assert needs_ranks(config) is False
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"{name}=2 says"):
        needs_ranks(config)


def test_torchruns_and_slurms_ranks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_config("model=tiny", "strategy=ddp", "trainer.devices=2")
    assert needs_ranks(config) is True
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert needs_ranks(config) is False
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    assert needs_ranks(config) is False
