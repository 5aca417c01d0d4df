"""Export: tensor by tensor, in files that plain transformers and the next stage read."""

from __future__ import annotations

import errno
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import compose_config
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from orca.errors import UserError
from orca.training import Pretrained, Student, byte_tokenizer, check_handoff, weights_hash
from orca.training import weights as weights_module
from orca.training.export import export
from orca.training.sharding import load_shards, shard, whole_root
from orca.training.weights import weight_files

IDS = torch.arange(40).reshape(2, 20)
FINGERPRINT = {"tokenizer": "t", "template": "p"}
SHARD = 100_000  # bytes; the tiny model in float32 has 382,000, its embeddings 66,000


def tiny(**changes: Any) -> Any:
    architecture = instantiate(compose_config("model=tiny").model.architecture)
    spec = Pretrained("tiny", "random", 1e-3, architecture={**architecture, **changes})
    return spec.model(seed=3).eval()


def write(model: Any, directory: Path, max_shard_bytes: int = SHARD, dtype: str = "float32") -> Any:
    return export(
        model,
        byte_tokenizer(),
        directory,
        dtype=dtype,
        stage="s",
        fingerprint=FINGERPRINT,
        card="card",
        max_shard_bytes=max_shard_bytes,
    )


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    files = weight_files(directory)
    return {name: load_file(file)[name] for name, file in files.items()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return sorted(ours) == sorted(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_and_configuration_are_those_of_save_pretrained(
    tmp_path: Path, tied: bool, dtype: str
) -> None:
    """The same names, bits and shards, and logits after plain transformers has loaded them."""
    model = tiny(tie_word_embeddings=tied)
    write(model, tmp_path / "ours", dtype=dtype)
    half = tiny(tie_word_embeddings=tied).to(getattr(torch, dtype))
    half.save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    places = [
        {name: file.name for name, file in weight_files(tmp_path / d).items()}
        for d in ("ours", "theirs")
    ]
    assert places[0] == places[1] and len(set(places[0].values())) > 1
    assert ("lm_head.weight" in places[0]) != tied
    assert same_bits(tensors(tmp_path / "ours"), tensors(tmp_path / "theirs"))
    sizes = [file.stat().st_size for file in (tmp_path / "ours").glob("*.safetensors")]
    assert max(sizes) < SHARD + 4096
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(tmp_path / d).eval() for d in ("ours", "theirs")
    )
    assert ours.dtype == half.dtype and torch.equal(logits(ours), logits(theirs))
    assert dtype == "bfloat16" or torch.equal(logits(ours), logits(model))
    configs = [(tmp_path / d / "config.json").read_text() for d in ("ours", "theirs")]
    assert configs[0] == configs[1]


def test_what_fits_is_one_file_and_the_hash_sees_every_file(tmp_path: Path) -> None:
    model = tiny()
    write(model, tmp_path / "one", max_shard_bytes=1_000_000)
    assert [f.name for f in (tmp_path / "one").glob("model*")] == ["model.safetensors"]
    handoff = write(model, tmp_path / "many")
    assert check_handoff(tmp_path / "many", FINGERPRINT) == handoff
    for file in sorted((tmp_path / "many").glob("*.safetensors")):
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(UserError, match="are not those"):
            check_handoff(tmp_path / "many", FINGERPRINT)
        file.write_bytes(before)
    assert weights_hash(tmp_path / "many") == handoff["weights"]
    modes = {f.name: f.stat().st_mode & 0o777 for f in (tmp_path / "many").iterdir()}
    assert set(modes.values()) == {modes["README.md"]}


def test_experts_are_written_as_the_hub_names_them(tmp_path: Path) -> None:
    """transformers holds a layer's experts in one tensor; its files hold them one by one."""
    config = AutoConfig.for_model(
        "mixtral", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2
    )
    config.num_attention_heads, config.num_key_value_heads, config.num_local_experts = 4, 2, 4
    config.head_dim = 8
    model = AutoModelForCausalLM.from_config(config).eval()
    write(model, tmp_path / "ours", max_shard_bytes=30_000)
    model.save_pretrained(tmp_path / "theirs")
    assert len(set(weight_files(tmp_path / "ours").values())) > 2
    assert any("experts.3.w2" in name for name in weight_files(tmp_path / "ours"))
    assert same_bits(tensors(tmp_path / "ours"), tensors(tmp_path / "theirs"))
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(logits(reloaded), logits(model), rtol=0, atol=0)


def test_an_export_that_breaks_off_leaves_the_older_one_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = write(tiny(), tmp_path / "hf")
    real, written = weights_module.save_file, []

    def break_off(tensors: Any, file: Path, **options: Any) -> None:
        if len(written) == 2:
            raise failure
        written.append(file)
        real(tensors, file, **options)

    monkeypatch.setattr(weights_module, "save_file", break_off)
    failure: BaseException = KeyboardInterrupt()
    for name in ("hf", "new"):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            write(tiny(tie_word_embeddings=False), tmp_path / name)
    assert check_handoff(tmp_path / "hf", FINGERPRINT) == older
    assert not (tmp_path / "new").exists()
    written.clear()
    failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"model-00003-of-\d+\.safetensors cannot .*No space left"):
        write(tiny(), tmp_path / "hf")
    monkeypatch.undo()
    newer = write(tiny(tie_word_embeddings=False), tmp_path / "hf")
    assert check_handoff(tmp_path / "hf", FINGERPRINT) == newer != older
    assert sorted(f.name for f in tmp_path.iterdir()) == ["hf", "new.partial"]


def _rank(rank: int, directory: Path, ranks: int) -> None:
    """Load shards, run, export, and leave logits and the most bytes that were gathered at once."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/store", rank=rank, world_size=ranks)
    source = Pretrained("t", str(directory / "source"), 1e-3)
    students = []
    for half in (None, torch.bfloat16):
        model = source.meta_model().eval()
        students.append(Student(model))
        shard(students[-1], dist.device_mesh.init_device_mesh("cpu", (ranks,)), half)
        load_shards(model, source.directory(), torch.device("cpu"))
    gathered, most, full_tensor = [0], [0], DTensor.full_tensor

    def release(count: int) -> None:
        gathered[0] -= count

    def spy(self: DTensor, **options: Any) -> torch.Tensor:
        whole = full_tensor(self, **options)
        gathered[0] += whole.nbytes
        most[0] = max(most[0], gathered[0])
        weakref.finalize(whole, release, whole.nbytes)
        return whole

    with whole_root(students[0]):
        result = logits(students[0].causal_lm)
    students[1].unshard()  # type: ignore[operator]  # as a forward pass leaves it, in bfloat16
    DTensor.full_tensor = spy  # type: ignore[method-assign,assignment]
    handoff = write(students[1].causal_lm, directory / "hf")
    record = {"logits": result, "most": torch.tensor(most[0])}
    save_file(record, directory / f"rank{rank}.safetensors")
    assert handoff == json.loads((directory / "hf/orca.json").read_text())
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, 2])
def test_sharded_ranks_export_without_holding_the_model(tmp_path: Path, ranks: int) -> None:
    """The float32 master weights come out bit by bit; rank 0 holds one file's tensors at most, the
    others one tensor; all the while computation is in bfloat16."""
    # 257 rows: the ranks' shares differ.
    model = tiny(tie_word_embeddings=False, vocab_size=257)
    write(model, tmp_path / "source", max_shard_bytes=70_000)
    mp.spawn(_rank, (tmp_path, ranks), nprocs=ranks)
    assert same_bits(tensors(tmp_path / "hf"), dict(model.state_dict()))
    sizes = [parameter.nbytes for parameter in model.parameters()]
    most = [int(load_file(tmp_path / f"rank{r}.safetensors")["most"]) for r in range(ranks)]
    assert max(sizes) <= most[0] <= SHARD and SHARD + max(sizes) < sum(sizes)
    assert most[1:] == [max(sizes)] * (ranks - 1)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert torch.equal(logits(reloaded), logits(model))
    torch.testing.assert_close(load_file(tmp_path / "rank0.safetensors")["logits"], logits(model))


@pytest.mark.parametrize("fault", ["file", "cut", "weight", "shape"])
def test_weights_that_cannot_be_loaded_are_named(tmp_path: Path, fault: str) -> None:
    write(tiny(), tmp_path / "hf")
    file = sorted((tmp_path / "hf").glob("*.safetensors"))[1]
    words = file.name
    if fault == "file":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        content = load_file(file)
        name = next(iter(content))
        words = rf"{name}' in .*{file.name} has shape" if fault == "shape" else f"weight '{name}'"
        if fault == "shape":
            content[name] = torch.zeros(*content[name].shape, 2)
        else:
            index = tmp_path / "hf/model.safetensors.index.json"
            placed = json.loads(index.read_text())
            del placed["weight_map"][name]
            index.write_text(json.dumps(placed))
        save_file(content, file)
    spec = Pretrained("t", str(tmp_path / "hf"), 1e-3)
    with pytest.raises(UserError, match=words):
        load_shards(spec.meta_model(), spec.directory(), torch.device("cpu"))


def test_the_stage_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no finished stage in .*stage=orca2_flan, with the same"):
        check_handoff(tmp_path / "orca2_flan" / "hf", FINGERPRINT)
