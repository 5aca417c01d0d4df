"""Links, anchors, images, Python and YAML blocks of README.md and docs/."""

from __future__ import annotations

import ast
import builtins
import importlib
from pathlib import Path

import pytest
import yaml
from docs_pages import PAGES, ROOT, Block, anchors, blocks, links
from omegaconf import OmegaConf

from orca.config import _check_node

PYTHON = [b for b in blocks() if b.language == "python"]
YAML = [b for b in blocks() if b.language == "yaml"]
LANGUAGES = {"bash", "python", "yaml", "json", "text", ""}
"""Commands stand in bash blocks; text and nameless ones show output."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and anchors within this project; addresses elsewhere are not asked."""
    broken = []
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside = target.exists() and target.is_relative_to(ROOT)
        if not inside or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_and_every_picture_is_linked() -> None:
    found = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)
    }
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/images").iterdir()]
    assert len(files) > 10
    assert [str(f.relative_to(ROOT)) for f in files if f.resolve() not in found] == []


def test_blocks_say_what_they_hold() -> None:
    assert {b.language for b in blocks()} <= LANGUAGES
    hidden = [str(b) for b in blocks() if not b.language and "python " in b.text.split("\n")[0]]
    assert not hidden, "commands belong into bash blocks, where they are checked"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_compile_and_their_imports_resolve(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(tree, str(block), "exec")
    bound = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
                bound.add(alias.asname or alias.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
                bound.add(alias.asname or alias.name)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert used - bound - set(dir(builtins)) == set(), "names that nothing defines"


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_blocks_have_options_that_exist(block: Block) -> None:
    config = OmegaConf.create(yaml.safe_load(block.text))
    _check_node(config, "")


def test_there_is_something_to_check() -> None:
    assert PYTHON and YAML and len(PAGES) > 8
    assert sum(len(links(page)) for page in PAGES) > 100


def test_the_map_of_the_architecture_names_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = [p for p in (ROOT / "orca").iterdir() if (p / "__init__.py").is_file()]
    programs = [p for p in (ROOT / "orca").glob("*.py") if '"__main__"' in p.read_text()]
    assert len(rooms) > 6
    assert [r.name for r in rooms if f"orca/{r.name}/" not in page] == []
    assert [p.name for p in [*programs, *ROOT.glob("*.py")] if p.name not in page] == []
