"""The project's own files: dependencies, licence of data, configuration groups."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import compose_config
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from orca.config import CONF_DIR, check_config
from orca.errors import UserError
from orca.training import CHECKPOINTING, TRAIN_OPTIONS, Levers

ROOT = Path(__file__).parent.parent
CONFIGURED = (p.name for p in CONF_DIR.iterdir() if p.is_dir())
GROUPS = sorted(name for name in CONFIGURED if name not in ("experiment", "hydra"))
GROUPS.append("model/adapter")
OTHER_PROGRAMS = (  # tests of these rooms
    *("mixture", "hygiene", "teacher", "gates"),
    *("benchmark", "engine", "judge", "protocol", "toxicity"),
)
OPTIONS = [
    (g, f.stem)
    for g in GROUPS
    if g not in OTHER_PROGRAMS
    for f in sorted((CONF_DIR / g).glob("*.yaml"))
]
NEEDED = {
    ("model", "hub"): ["model.name=any", "model.path=any/thing"],
    ("data", "local"): ["data.format=chat"],
    ("data", "flan_targets"): ["data.path=queries/mini"],
}


def test_environment_and_pyproject_name_the_same_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert set(project["dependencies"]) == set(pip) - {"-e ."}
    assert any(d.startswith("flash-attn") for d in project["optional-dependencies"]["gpu"])


def test_constraints_pin_every_direct_dependency() -> None:
    import re

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["dev"]

    def name(line: str) -> str:
        return re.split(r"[<>=!\[ ]", line, maxsplit=1)[0].lower().replace("_", "-")

    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line}
    assert {name(line) for line in project["dependencies"] + extra} <= pinned


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_every_option_of_every_group_composes_and_instantiates(group: str, option: str) -> None:
    if option == "base":
        pytest.skip("base is the part that other options share")
    config = compose_config(f"{group}={option}", *NEEDED.get((group, option), []))
    check_config(config, TRAIN_OPTIONS)
    if group == "stage":
        for name, stage in config.stages.items():
            passes = {"orca2_chatgpt": 3, "orca2_gpt4": 4}.get(name, 1)
            assert instantiate(stage).epochs == passes
    elif group in ("model", "template", "optimizer", "scheduler", "curriculum"):
        assert instantiate(config[group]) is not None
    elif group == "model/adapter":
        adapter = instantiate(config.model).adapter
        assert (adapter is None) == (option == "none")
    elif group == "data":
        assert instantiate(config.data, _partial_=True).func.__name__ == "TraceDataModule"
    elif group == "strategy":
        # One device needs no configuration: the program makes its strategy for the device.
        assert (instantiate(config.strategy.strategy) is None) == (option == "single")
    elif group == "arm":
        assert all(instantiate(stage) for stage in config.stages.values())
        assert instantiate(config.data, _partial_=True).func.__name__ == "TraceDataModule"
    elif group in ("callbacks", "trainer"):
        OmegaConf.to_container(config[group], resolve=True)


def test_every_lever_composes_and_is_built() -> None:
    for mode in CHECKPOINTING:
        config = compose_config(f"activation_checkpointing={mode}", "compile=true")
        check_config(config, TRAIN_OPTIONS)
        Levers(config.activation_checkpointing, config.compile, config.liger)
    assert not compose_config().compile and not compose_config().liger


@pytest.mark.parametrize("model", sorted(f.stem for f in (CONF_DIR / "model").glob("*.yaml")))
def test_every_model_takes_an_adapter(model: str) -> None:
    config = compose_config(
        f"model={model}", "model/adapter=lora", *NEEDED.get(("model", model), [])
    )
    config.model.adapter.target_modules = ["q_proj"]
    check_config(config, TRAIN_OPTIONS)
    assert config.optimizer.lr == pytest.approx(10 * config.model.lr)
    adapter = instantiate(config.model).adapter
    assert adapter.rank == 16 and list(adapter.target_modules) == ["q_proj"]


def test_the_slurm_launcher_asks_for_a_task_a_device_and_takes_all_its_options() -> None:
    import inspect

    from hydra.core.hydra_config import HydraConfig
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        overrides = ["hydra/launcher=submitit_slurm", "trainer.devices=8", "trainer.num_nodes=2"]
        config = compose("train", overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    launcher = config.hydra.launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (2, 8, 8)
    known = set(inspect.signature(SlurmQueueConf).parameters)
    assert {str(key) for key in launcher} - {"_target_"} <= known


def test_every_experiment_composes() -> None:
    for file in (CONF_DIR / "experiment").glob("*.yaml"):
        check_config(compose_config(f"experiment={file.stem}"), TRAIN_OPTIONS)


def test_a_mistyped_key_fails_with_the_nearest_valid_one() -> None:
    config = compose_config()
    OmegaConf.set_struct(config, False)
    config.optimizer.weight_decoy = 0.1
    with pytest.raises(UserError, match=r"optimizer\.weight_decoy.*Did you mean.*weight_decay"):
        check_config(config, TRAIN_OPTIONS)
    del config.optimizer.weight_decoy
    config.epoch = 3
    with pytest.raises(UserError, match="Did you mean epochs"):
        check_config(config, TRAIN_OPTIONS)


def test_no_file_of_the_project_is_large() -> None:
    large = [p for p in (ROOT / "orca").rglob("*") if p.is_file() and p.stat().st_size > 1_500_000]
    assert not large
