"""Every command of README.md and docs/ is one that the program takes.

A line of a bash block, or a command in a line of text, is composed by Hydra and checked against the
constructors, or parsed by its own argument parser up to where work would begin, or stands in
``NOT_CHECKED`` with a reason.
"""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT, Command, commands
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from orca.config import CONF_DIR, check_config
from orca.reference_files import conf_files
from orca.training import plan_report, plan_stage

NOT_CHECKED = {
    r"^conda env create -f environment\.yml$": "needs conda; test_project compares the file",
    r"^conda activate orca$": "the shell's own; environment.yml has that name",
    r"^source \.venv/bin/activate$": "the shell's own; make setup makes that file",
    r"^pytest -m slow tests/": "the path is checked below",
}
"""Pattern of a command → why it is not checked here; a pattern that matches none is an error."""

OTHER_PROGRAMS = (
    "transformers",
    "vllm",
    "wandb",
    "curl",
    "sbatch",
    "ray",
    "cd",
    "echo",
    "git",
    "kill",
)
"""Of other projects: only that their paths exist is checked."""

PLACEHOLDERS = {"…": "placeholder"}
"""What a reader replaces, as a whole word or a whole value → a word that Hydra's grammar takes.
DIR, FILE and NAME are words already."""

ELSEWHERE = ("runs", "evaluations", "queries", "traces", "models", "difference", "orca_again")
"""First parts of relative paths that commands make or that are the reader's own."""

PREFIXES = {"srun", "torchrun"}
PROGRAMS = {tuple(f.command.split()): f.name for f in conf_files(CONF_DIR) if not f.group}
PARSERS = re.compile(r"^python (-m orca[\w.]*|benchmarks/\w+\.py)( |$)")


def of_program(command: Command) -> tuple[str, list[str]] | None:
    """(configuration, overrides) of a command of a program that reads ``conf/``."""
    words = list(command.words)
    if words[0] in PREFIXES:
        words = words[words.index("python") :]
    for call, config in PROGRAMS.items():
        if tuple(words[: len(call)]) == call:
            return config, words[len(call) :]
    return None


CONFIGURED = list({c.words: c for c in commands() if of_program(c)}.values())
PARSED = [c for c in commands() if not of_program(c) and PARSERS.match(c.text)]
MADE = [c for c in commands() if c.words[0] == "make"]
INSTALLED = [c for c in commands() if c.words[:2] == ("pip", "install")]
EXPORTED = [c for c in commands() if c.words[0] == "export"]


def test_every_command_is_checked_or_has_a_reason() -> None:
    checked = {c.words for c in [*CONFIGURED, *PARSED, *MADE, *INSTALLED, *EXPORTED]}
    rest = [c for c in commands() if c.words not in checked and c.words[0] not in OTHER_PROGRAMS]
    unknown = [str(c) for c in rest if not any(re.search(p, c.text) for p in NOT_CHECKED)]
    assert not unknown, "\n".join(unknown)
    unused = [p for p in NOT_CHECKED if not any(re.search(p, c.text) for c in rest)]
    assert not unused, f"NOT_CHECKED has patterns that no command matches: {unused}"
    words = " ".join(c.text for c in commands())
    assert all(p in words for p in PLACEHOLDERS) and len(CONFIGURED) > 40 and len(PARSED) > 4


def filled(argument: str) -> str:
    """An argument with its placeholder replaced."""
    key, equals, value = argument.partition("=")
    return f"{key}{equals}{PLACEHOLDERS.get(value, value)}" if equals else argument


def values_of(override: Override) -> list[Any]:
    """What a sweep takes one after the other; of an interval, which a sampler draws from, its
    ends."""
    if override.is_interval_sweep():
        interval: Any = override.value()
        return [interval.start, interval.end]
    return list(override.sweep_string_iterator())


def single_jobs(overrides: list[Override]) -> Iterator[list[str]]:
    """Each value of each sweep once, others at their first; and all without a sweep."""
    swept = {
        o.input_line: [f"{o.get_key_element()}={value}" for value in values_of(o)]
        for o in overrides
        if o.is_sweep_override()
    }
    lines = [str(o.input_line) for o in overrides]
    yield [swept.get(line, [line])[0] for line in lines]
    for line, values in swept.items():
        for value in values[1:]:
            yield [value if other == line else swept.get(other, [other])[0] for other in lines]


@cache
def keys(config_name: str) -> list[str]:
    """Top-level keys of a program's configuration."""
    return [str(key) for key in compose(config_name)]


def composed(config_name: str, arguments: list[str]) -> list[DictConfig]:
    """Every configuration that the command stands for, composed as the program does."""
    options = [filled(a) for a in arguments if a not in ("-m", "--multirun", "…")]
    flags = [o for o in options if o.startswith("-")]
    assert set(flags) <= {"--help"}, flags
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        known = keys(config_name)
        if "model_path" in known:  # as evaluate.py does: conf/model is a group of train.py
            options = [re.sub("^model=", "model_path=", option) for option in options]
        overrides = OverridesParser.create().parse_overrides([o for o in options if o not in flags])
        found = []
        for job in single_jobs(overrides):
            config = compose(config_name, overrides=job)
            if job:  # without options a span of text names the program alone
                check_config(config, known)
            found.append(config)
    return found


@pytest.mark.parametrize("command", CONFIGURED, ids=str)
def test_commands_of_programs_compose_and_every_option_is_taken(command: Command) -> None:
    config_name, arguments = of_program(command) or ("", [])
    configs = composed(config_name, arguments)
    assert configs
    if config_name == "train" and configs[0].plan:  # cheap: run it
        for name in configs[0].stages:
            assert "GPU-hours" in plan_report(plan_stage(configs[0], str(name)))


class Parsed(Exception):
    """A program has taken its arguments and would begin to work."""


@pytest.mark.parametrize("command", PARSED, ids=str)
def test_other_programs_take_their_arguments(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program runs up to the end of ``parse_args``; one without a parser takes no arguments."""
    words = [w for w in command.words if w != "…"]
    module = words[2] if words[1] == "-m" else ""
    name = module.replace(".", "/") + ".py" if module else words[1]
    file = ROOT / name if (ROOT / name).is_file() else ROOT / name[:-3] / "__main__.py"
    arguments = words[3:] if module else words[2:]
    source = file.read_text(encoding="utf-8")
    assert '__name__ == "__main__"' in source
    if "ArgumentParser" not in source:
        assert not arguments, f"{file.name} takes none"
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, args: Any = None, space: Any = None) -> None:
        parse(self, args, space)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    monkeypatch.syspath_prepend(str(file.parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(file), run_name="__main__")


@pytest.mark.parametrize("command", MADE, ids=str)
def test_make_targets_exist(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (w for w in command.words[1:] if "=" not in w):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), target


@pytest.mark.parametrize("command", INSTALLED, ids=str)
def test_what_pip_installs_is_declared(command: Command) -> None:
    """Extras of this project, or packages that pyproject.toml or the Makefile names."""
    text = (ROOT / "pyproject.toml").read_text() + (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [w for w in command.words[2:] if not w.startswith("-")]
    assert wanted
    for word in wanted:
        extra = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        if extra:
            known = extras["optional-dependencies"]
            assert set((extra[1] or "").split(",")) - {""} <= set(known), word
        else:
            assert re.split(r"[=<>\[]", word)[0] in text, word


@pytest.mark.parametrize("command", EXPORTED, ids=str)
def test_variables_that_are_exported_are_read(command: Command) -> None:
    name = command.words[1].partition("=")[0]
    files = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "orca").rglob("*.py")]
    known = name.startswith(("WANDB_", "NCCL_", "PYTORCH_", "HF_", "TOKENIZERS_"))
    assert known or any(name in file.read_text(encoding="utf-8") for file in files), name


def test_paths_in_commands_that_are_of_this_project_exist() -> None:
    """A relative path is a file here, or begins with what commands make."""
    missing, seen = [], 0
    for command in commands():
        for word in command.words[1:]:
            value = word.partition("=")[2] or word
            for part in re.split(r"[\[\],]", value):
                first = part.split("/")[0]
                if (
                    "/" not in part
                    or " " in part
                    or re.match(r"[/$\\<]|https?:|\.venv|…|mixture$|hydra$", part)
                ):
                    continue
                if "=" not in word or (ROOT / first).is_dir():
                    seen += 1
                    missing += (
                        [] if (ROOT / part).exists() or first in ELSEWHERE else [str(command)]
                    )
    assert not missing, missing
    assert seen > 5


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train.py", "evaluate.py", "collect.py", "orca.mixture"])
def test_help_is_printed(program: str) -> None:
    call = [program] if program.endswith(".py") else ["-m", program]
    done = subprocess.run(
        [sys.executable, *call, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 10, done.stderr


def test_the_first_command_of_the_readme_runs_in_small(tmp_path: Path) -> None:
    """With a model that takes seconds."""
    stage = next(c for c in CONFIGURED if c.text.startswith("python train.py stage=flan5m_chatgpt"))
    small = ["model=tiny", "trainer.max_steps=2", "callbacks.answers.questions=2", "logger=csv"]
    small += ["data.held_out_examples=4"]
    call = [sys.executable, *stage.words[1:], *small, f"paths.runs={tmp_path}"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny-sample/flan5m_chatgpt/hf/model.safetensors").is_file()
