"""Students load, grow and say what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ORCA_TEMPLATE, compose_config
from hydra.utils import instantiate
from torch import nn

from orca.errors import UserError
from orca.training import Pretrained, byte_tokenizer, prepare_model

TINY = instantiate(compose_config("model=tiny").model)


def test_new_embedding_rows_are_the_mean_of_the_old_and_rounded_up() -> None:
    tokenizer = byte_tokenizer()
    ORCA_TEMPLATE.prepare(tokenizer)
    model = TINY.model()
    before = model.get_input_embeddings().weight.detach().clone()
    prepare_model(model, tokenizer, 64)
    after = model.get_input_embeddings().weight.detach()
    assert len(tokenizer) == 259 and after.shape[0] == 320
    torch.testing.assert_close(after[:258], before)
    torch.testing.assert_close(after[258:], before.mean(dim=0).expand(62, -1))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_eos_learns_where_pad_was_eos(smollm2: Pretrained) -> None:
    """nn.Embedding gives the row at padding_idx no gradient; SmolLM2 has it at EOS."""
    tokenizer = smollm2.tokenizer()
    model = TINY.model()
    model.get_input_embeddings().padding_idx = tokenizer.eos_token_id
    ORCA_TEMPLATE.prepare(tokenizer)
    prepare_model(model, tokenizer, 1)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    embedding(torch.tensor([tokenizer.eos_token_id])).sum().backward()
    assert embedding.weight.grad[tokenizer.eos_token_id].abs().sum() > 0
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_embedded_model_is_a_real_pretrained_one(smollm2: Pretrained) -> None:
    tokenizer, model = smollm2.tokenizer(), smollm2.model()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        best = int(model(**ids).logits[0, -1].argmax())
    assert tokenizer.decode(best) == " Paris"


def test_the_papers_student_has_13_billion_parameters_and_32001_tokens() -> None:
    """Built on the meta device from experiment=orca_13b: no weights, no download."""
    config = compose_config("experiment=orca_13b", "stage=progressive")
    spec = instantiate(config.model)
    base = spec.meta_model()
    grown = spec.meta_model(num_tokens=32_000 + 1)
    assert sum(p.numel() for p in base.parameters()) == 13_015_864_320
    assert all(p.device.type == "meta" for p in grown.parameters())
    assert grown.get_input_embeddings().weight.shape == (32_064, 5_120)
    exact = Pretrained("x", "y", 1.0, embedding_multiple=1, architecture=spec.architecture)
    assert exact.meta_model(32_001).get_output_embeddings().weight.shape == (32_001, 5_120)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./no/such/directory", "no such directory"),
        ("package:other", "unknown"),
    ],
)
def test_a_model_that_is_not_there_is_named(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Pretrained("x", path, 1.0).model()


def test_the_papers_run_builds_its_trainer(tmp_path: Path) -> None:
    """experiment=orca_13b down to the Trainer, on CPU ranks in place of GPUs."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    from orca.training import build_trainer

    config = compose_config(
        *("experiment=orca_13b", "stage=progressive", "logger=csv"),
        *("trainer.accelerator=cpu", "trainer.devices=4"),
    )
    assert list(config.stages) == ["flan5m_chatgpt", "flan1m_gpt4"]
    assert {stage.epochs for stage in config.stages.values()} == {4}
    scales = [config.optimizer.lr * stage.lr_scale for stage in config.stages.values()]
    assert scales == [2e-5, 1e-5] and config.data.max_tokens == 2048
    trainer = build_trainer(config, "flan5m_chatgpt", tmp_path)
    assert isinstance(trainer.strategy, ModelParallelStrategy) and trainer.num_devices == 4
    assert trainer.max_epochs == 1 and trainer.gradient_clip_val is None
    names = {type(callback).__name__ for callback in trainer.callbacks}
    assert {"Checkpoints", "Throughput", "RunProgress", "HeldOutAnswers"} <= names
