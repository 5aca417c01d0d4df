"""docs/configuration.md is what `python -m orca.reference` writes, and explains every option."""

from __future__ import annotations

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from orca.config import CONF_DIR
from orca.reference import PAGE, Reference, code
from orca.reference_files import arguments, conf_files


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def test_the_page_is_what_the_program_writes(reference: Reference) -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.page(), "run python -m orca.reference"


def test_every_option_and_every_file_says_what_it_is(reference: Reference) -> None:
    """The way out: a comment beside the option in its YAML file, or a line under `Args:`."""
    silent = []
    for program in reference.programs:
        silent += [f"{program.name}.yaml: {r.option}" for r in reference.program_rows(program)
                   if not r.meaning]  # fmt: skip
        silent += [] if program.about else [f"{program.name}.yaml: its first line"]
    for group, files in reference.groups.items():
        silent += [f"conf/{group}/{f.name}.yaml: its first line" for f in files if not f.about]
        silent += [] if reference.description(group) else [f"group {group}, in a list of defaults"]
        if files[0].package != "":  # files of package _global_ set options of other groups
            silent += [f"conf/{group}: {row.option}" for row in reference.group_rows(group)
                       if row.needs_meaning and not row.meaning]  # fmt: skip
    assert not silent, "\n".join(silent)


def test_every_file_of_conf_is_on_the_page() -> None:
    """Compared with the directory itself, not with what the program found in it."""
    page = PAGE.read_text(encoding="utf-8")
    files = [p for p in CONF_DIR.rglob("*.yaml") if p.stem != "base"]
    assert len(files) > 60
    assert [f for f in files if f"(../conf/{f.relative_to(CONF_DIR)})" not in page] == []


def _leaves(node: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in node:
        child, path = node._get_node(key), f"{prefix}{key}"
        if isinstance(child, DictConfig) and "_target_" in child:
            found += _leaves(child, f"{path}.")
        elif not str(key).startswith("_"):
            found.append(path)
    return found


def test_options_that_hydra_composes_for_training_are_on_the_page() -> None:
    """An independent reader: Hydra itself, of the default run."""
    page = PAGE.read_text(encoding="utf-8")
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        config = compose("train")
    for group in ("model", "data", "optimizer", "scheduler", "template", "curriculum"):
        options = [f"{group}.{leaf}" for leaf in _leaves(config[group])]
        assert [o for o in options if f"| {code(o)} |" not in page] == []


def test_comments_are_read_by_position_not_by_pattern() -> None:
    """`#` inside a quoted value is no comment; one after it is."""
    lines = 'a: "x # y" # said\nb: [1, "#"]\nc: # of c\n  d: 1 # of d\n'
    root = yaml.compose(lines)
    from orca.reference_files import _tree

    tree = _tree(root, lines.splitlines())
    assert tree["a"].comment == "said" and tree["a"].text == "x # y"
    assert tree["b"].comment == "" and tree["c"].comment == "of c"
    assert tree["c"].children is not None and tree["c"].children["d"].comment == "of d"


def test_arguments_of_a_docstring() -> None:
    text = (
        "What.\n\nArgs:\n    a, b: both,\n        on two lines.\n    c: alone\n\nRaises:\n    E: no"
    )
    assert arguments(text) == {"a": "both, on two lines.", "b": "both, on two lines.", "c": "alone"}


def test_a_file_that_extends_another_has_its_options(reference: Reference) -> None:
    sample = next(f for f in reference.groups["data"] if f.name == "sample")
    assert sample.tree["window"].text == "256" and sample.tree["max_tokens"].text == "1024"
    assert any(f.name == "evaluated" for f in conf_files(CONF_DIR))
