"""Answers of a student that is in training, against `transformers`' own generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import ORCA_TEMPLATE
from transformers import AutoModelForCausalLM, RecurrentGemmaConfig

from orca.errors import UserError
from orca.training import Pretrained, byte_tokenizer, generate, prepare_model
from orca.training.attention import implementation

QUERIES = [
    ("", "2+2="),
    ("You are an AI assistant.", "Name a colour."),
    ("", "Say no."),
    ("", "Which letter follows A? Answer with the letter only. " * 3),
]


def student(pretrained: Pretrained, tokenizer: Any) -> Any:
    """As training holds it: in training mode, with the attention of packs."""
    ORCA_TEMPLATE.prepare(tokenizer)
    model = pretrained.model(1)
    prepare_model(model, tokenizer, 64)
    model.set_attn_implementation(implementation("documents"))
    return model.train()


def tiny(**architecture: Any) -> tuple[Any, Any]:
    sizes = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"model_type": "llama", "num_attention_heads": 4, "initializer_range": 0.25}
    spec = Pretrained("tiny", "random", 0.0, architecture=sizes | heads | architecture)
    tokenizer = byte_tokenizer()
    return student(spec, tokenizer), tokenizer


def test_responses_are_those_of_transformers_one_by_one(smollm2: Pretrained) -> None:
    """Greedy, float32; afterwards the student is as it was."""
    tokenizer = smollm2.tokenizer()
    model = student(smollm2, tokenizer)
    found = generate(model, tokenizer, ORCA_TEMPLATE, QUERIES, 16)
    assert model.training and model.config._attn_implementation == implementation("documents")
    model.eval().set_attn_implementation("sdpa")
    for query, response in zip(QUERIES, found, strict=True):
        ids = tokenizer(ORCA_TEMPLATE.prompt(*query), return_tensors="pt").input_ids
        with torch.inference_mode():
            whole = model.generate(ids, max_new_tokens=16, do_sample=False)[0]
        expected = tokenizer.decode(whole[ids.shape[1] :], skip_special_tokens=True).strip()
        assert response == expected
    assert len(set(found)) > 2


def test_responses_in_bf16_differ_from_float32_by_rounding_alone() -> None:
    """The first characters, before a near tie can part two answers."""
    model, tokenizer = tiny()
    queries = [("", f"Question {i}") for i in range(12)]
    whole = generate(model, tokenizer, ORCA_TEMPLATE, queries, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = generate(model, tokenizer, ORCA_TEMPLATE, queries, 1)
        longer = generate(model, tokenizer, ORCA_TEMPLATE, queries, 24)
    assert sum(a == b for a, b in zip(whole, half, strict=True)) >= 10
    assert len(set(longer)) > 6


def test_a_query_without_room_has_no_response_and_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, tokenizer = tiny(max_position_embeddings=64)
    short, long = generate(model, tokenizer, ORCA_TEMPLATE, [("", "q"), ("", "q" * 64)], 500)
    assert short and not long
    assert "1 of 2 questions leave no room for an answer" in capsys.readouterr().out
    room = 64 - len(tokenizer(ORCA_TEMPLATE.prompt("", "q")).input_ids)
    shorter = [generate(model, tokenizer, ORCA_TEMPLATE, [("", "q")], n)[0] for n in (room, 1)]
    assert short == shorter[0] != shorter[1]


def test_a_model_that_passes_states_along_is_refused_and_left_as_it_was() -> None:
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    config.max_position_embeddings = 512
    model = AutoModelForCausalLM.from_config(config).train()
    tokenizer = byte_tokenizer()
    ORCA_TEMPLATE.prepare(tokenizer)
    with pytest.raises(UserError, match=r"recurrent_gemma does not have.*callbacks\.answers=null"):
        generate(model, tokenizer, ORCA_TEMPLATE, [("", "q")], 4)
    assert model.training
