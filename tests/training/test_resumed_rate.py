"""A run that goes on with another learning rate says so in its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from orca.training.directory import RunDirectory, open_run


def test_the_learning_rate_of_a_resumed_run_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = OmegaConf.create({"optimizer": {"lr": 0.1}, "seed": 1, "resume": None})
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(old))
    new = OmegaConf.merge(old, {"optimizer": {"lr": 0.2}, "resume": "auto", "overwrite": False})
    assert open_run(tmp_path, new) == (False, True)  # type: ignore[arg-type]
    RunDirectory(tmp_path).go_on(new)  # type: ignore[arg-type]
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert saved == OmegaConf.merge(old, {"optimizer": {"lr": 0.2}})
    (tmp_path / "results.json").write_text("{}")
    new.optimizer.lr = 0.3
    assert open_run(tmp_path, new) == (True, True)  # type: ignore[arg-type]
    assert "is finished, but not at this learning rate" in capsys.readouterr().out
