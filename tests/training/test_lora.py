"""LoRA trains its own matrices alone, and leaves a plain model that computes the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ORCA_TEMPLATE, compose_config
from hydra.utils import instantiate
from test_module import data
from test_stage import FAST, SHORT, losses, train
from transformers import AutoModelForCausalLM

from orca.errors import UserError
from orca.training import AdamW, Constant, ExplanationTuning, Levers, Lora, Pretrained
from orca.training.lora import merged, save_adapter

LORA = ["model/adapter=lora", "optimizer.lr=1e-2"]


def fit(
    directory: Path,
    pretrained: Pretrained,
    tokenizer: Any,
    precision: Any = "32-true",
    levers: Levers = Levers(),  # noqa: B008
) -> tuple[ExplanationTuning, dict[str, torch.Tensor]]:
    """Two steps; the module and its weights before the first."""
    module = ExplanationTuning(
        pretrained=pretrained,
        tokenizer=tokenizer,
        optimizer=AdamW(1e-2),
        scheduler=Constant(0.0),
        levers=levers,
    )
    before: dict[str, torch.Tensor] = {}

    class Remember(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            state = pl_module.student.causal_lm.state_dict()
            before.update({name: tensor.clone() for name, tensor in state.items()})

    trainer = L.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=2,
        callbacks=[Remember()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(module, data(directory, tokenizer))
    return module, before


def tiny(**changes: Any) -> Pretrained:
    config = compose_config("model=tiny", "model/adapter=lora").model
    config.adapter.rank = 4
    return instantiate(config, **changes)


def changed(module: ExplanationTuning, before: dict[str, torch.Tensor]) -> set[str]:
    state = module.student.causal_lm.state_dict()
    assert state.keys() == before.keys()
    return {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_only_adapters_are_trained_and_merged_logits_are_theirs(
    tmp_path: Path, tokenizer: Any, precision: str
) -> None:
    module, before = fit(tmp_path, tiny(), tokenizer, precision)
    model = module.student.causal_lm
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert changed(module, before) == trained and len(trained) == 2 * 7 * 2
    (groups,) = [module.trainer.optimizers[0].param_groups]
    assert sum(len(group["params"]) for group in groups) == len(trained)
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    half = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    assert kinds["model.layers.0.mlp.up_proj.base_layer.weight"] == half
    assert {kinds[name] for name in trained} == {torch.float32}
    assert kinds["model.embed_tokens.weight"] == kinds["model.norm.weight"] == torch.float32

    ids = torch.arange(40)[None]
    model.eval().float().set_attn_implementation("sdpa")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        ours = model(ids, use_cache=False).logits
        with merged(model) as plain:
            state = plain.state_dict()
            theirs = plain(ids, use_cache=False).logits
        again = model(ids, use_cache=False).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    wanted = tiny().model().state_dict()
    assert state.keys() == wanted.keys()
    name = "model.layers.0.mlp.up_proj.weight"
    assert (state[name] - wanted[name]).abs().max() > 1e-3  # something was merged
    after = model.state_dict()
    assert torch.equal(again, ours) and after.keys() == own.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in own.items())


def test_the_adapter_directory_gives_peft_the_same_model(tmp_path: Path, tokenizer: Any) -> None:
    from peft import PeftModel

    from orca.training import prepare_model

    module, _ = fit(tmp_path, tiny(), tokenizer)
    model = module.student.causal_lm.eval()
    save_adapter(model, tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("*.bin"))
    base = tiny().model(module.seed)
    prepare_model(base, tokenizer, 64)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    model.set_attn_implementation("sdpa")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        ours, theirs = (m(ids, use_cache=False).logits for m in (model, loaded))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_lora_and_checkpointing_give_the_gradients_of_lora_alone(
    tmp_path: Path, tokenizer: Any
) -> None:
    """No input of the first layer requires a gradient then, a known trap of checkpointing."""
    states = [
        fit(tmp_path, tiny(), tokenizer, levers=Levers(mode))[0].student.state_dict()
        for mode in ("none", "selective", "full")
    ]
    for other in states[1:]:
        for name, tensor in states[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-6)


def test_stage_two_starts_from_the_merged_model(tmp_path: Path) -> None:
    train(tmp_path, *SHORT, *LORA, "stage=progressive")
    first, second = (tmp_path / name for name in ("flan5m_chatgpt", "flan1m_gpt4"))
    ends = [json.loads((d / "results.json").read_text())["held_out_loss"] for d in (first, second)]
    assert ends[0]["after"] < ends[0]["before"]
    assert ends[1]["before"] == pytest.approx(ends[0]["after"], rel=1e-5)
    model = AutoModelForCausalLM.from_pretrained(first / "hf")
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    config = json.loads((second / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(first / "hf") and config["r"] == 16


def test_a_lora_run_resumes_exactly(tmp_path: Path) -> None:
    options = [*FAST, *LORA, "trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3"]
    options += ["callbacks.checkpoints.keep=2", "model.adapter.dropout=0.1"]
    train(tmp_path, *options)
    stage = tmp_path / "flan5m_chatgpt"
    expected = losses(stage)
    weights = (stage / "adapter/adapter_model.safetensors").read_bytes()
    (stage / "results.json").unlink()
    shutil.rmtree(stage / "checkpoints/step00000006")
    train(tmp_path, *options, "resume=auto")
    assert losses(stage) == expected and len(expected) == 6
    assert (stage / "adapter/adapter_model.safetensors").read_bytes() == weights


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"strategy=fsdp.*strategy=single or strategy=ddp"):
        train(tmp_path, *SHORT, *LORA, "strategy=fsdp")
    with pytest.raises(UserError, match=r"adds <\|im_end\|>, <\|im_start\|>.*template=orca"):
        train(tmp_path, *SHORT, *LORA, "template=chatml")
    assert not (tmp_path / "flan5m_chatgpt").exists()
    with pytest.raises(UserError, match=r"target_modules: no query in this model. It has down_p"):
        train(tmp_path, *SHORT, *LORA, "model.adapter.target_modules=[query]")
    with pytest.raises(UserError, match="rank=0"):
        Lora(rank=0)


@pytest.mark.slow
def test_the_embedded_model_learns_by_lora(tmp_path: Path, smollm2: Pretrained) -> None:
    """SmolLM2 with chatml, whose marks it has: only [[PAD]] is new."""
    tokenizer = smollm2.tokenizer()
    Lora().check("single", smollm2.tokenizer(), tokenizer)
    ORCA_TEMPLATE.prepare(tokenizer)
    spec = Pretrained("smollm2_135m", smollm2.path, 5e-4, adapter=Lora(rank=8))
    module, before = fit(tmp_path, spec, tokenizer, "bf16-mixed")
    model = module.student.causal_lm
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert changed(module, before) == trained and len(trained) == 30 * 7 * 2
    ids = torch.arange(40)[None] + 1000
    model.eval().float().set_attn_implementation("sdpa")
    with torch.no_grad():
        ours = model(ids, use_cache=False).logits
        with merged(model) as plain:
            theirs = plain(ids, use_cache=False).logits
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()
