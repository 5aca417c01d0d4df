"""Engine `hf` writes what the model alone would write, however prompts are batched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHATML_TEMPLATE, ORCA_TEMPLATE, varied_llama
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig, RecurrentGemmaConfig

from orca.config import CONF_DIR
from orca.decoding import Decoder, PrefixTree, Row, check_attention, decoder
from orca.decoding.decoder import choose
from orca.errors import UserError
from orca.evaluation.engine import Output, Prompt
from orca.evaluation.hf_engine import (
    HFEngine,
    find_model,
    load,
)
from orca.evaluation.model_engine import ModelEngine
from orca.training import Pretrained, byte_tokenizer

CONTEXT = 300
END_TOKENS = list(range(1, 12))  # so that many answers end before their limit
PASSAGE = "A passage that several questions quote, word by word. "
PROMPTS = [
    Prompt(f"{i}", "Think." if i % 3 == 0 else "", PASSAGE * (i % 4) + f"Question {i}?", seed=i)
    for i in range(14)
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose answers vary, with a byte tokenizer and a chat template."""
    model = varied_llama(CONTEXT)
    model.generation_config.eos_token_id = END_TOKENS
    directory = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(directory)
    tokenizer = byte_tokenizer()
    ORCA_TEMPLATE.prepare(tokenizer)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def engine(tiny: Path) -> HFEngine:
    return HFEngine(str(tiny), device="cpu")


@pytest.fixture(autouse=True)
def same_engine(engine: HFEngine) -> Iterator[None]:
    """Tests may change how the shared engine batches."""
    yield
    engine.decoder.tokens_per_batch = 16_384
    engine.decoder.tree_tokens = 512


def answers(engine: HFEngine, prompts: list[Prompt], temperature: float) -> dict[str, Output]:
    return {output.key: output for output in engine.generate(prompts, temperature, 150)}


def alone(engine: HFEngine, temperature: float) -> dict[str, str]:
    return {p.key: answers(engine, [p], temperature)[p.key].text for p in PROMPTS}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("budget", "tree"), [(16_384, 512), (1_500, 64), (300, 1)])
def test_an_answer_is_the_same_alone_and_in_any_batch(
    engine: HFEngine, temperature: float, budget: int, tree: int
) -> None:
    """Rows come, leave and, where the budget is small, begin again: nothing of it shows."""
    expected = alone(engine, temperature)
    engine.decoder.tokens_per_batch, engine.decoder.tree_tokens = budget, tree
    outputs = answers(engine, PROMPTS, temperature)
    assert {key: output.text for key, output in outputs.items()} == expected
    assert len({output.new_tokens for output in outputs.values()}) > 3  # they did end apart
    assert len(set(expected.values())) > 5


def test_rows_wait_again_where_a_batch_outgrows_its_budget(
    engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    admit = Decoder._admit
    monkeypatch.setattr(Decoder, "_admit", lambda *a: (admit(*a), read.append(len(a[1])))[0])
    prompt = [Prompt(f"{i}", "", "q", seed=i) for i in range(4)]
    monkeypatch.setattr(engine.decoder, "end_ids", set())
    monkeypatch.setattr(engine.decoder, "tokens_per_batch", 4 * 256)
    outputs = list(engine.generate(prompt, 1.0, 250))
    assert [output.new_tokens for output in outputs] == [250] * 4
    assert len(read) > 1  # prompts are one tree, so a second reading is of rows that waited again


def test_draws_differ_by_their_seed_alone(engine: HFEngine) -> None:
    prompts = [Prompt(f"{i}", "", "Tell me.", seed=i // 2) for i in range(8)]
    texts = {key: output.text for key, output in answers(engine, prompts, 1.0).items()}
    assert all(texts[f"{i}"] == texts[f"{i + 1}"] for i in range(0, 8, 2))
    assert len(set(texts.values())) == 4


def test_sampling_follows_the_softmax_at_its_temperature() -> None:
    """Relative frequencies of 20,000 draws, within five standard errors of the probabilities."""
    logits, temperature, count = torch.tensor([2.0, 1.0, 0.0, -1.0, -50.0]), 0.7, 20_000
    rows = [Row(i, [0], seed=i, limit=1) for i in range(count)]
    drawn = np.bincount(choose(logits.expand(count, -1), rows, temperature), minlength=5) / count
    expected = torch.softmax(logits / temperature, dim=0).numpy()
    assert (abs(drawn - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)).all()


def test_every_end_token_ends_an_answer_and_the_limit_cuts_it(engine: HFEngine) -> None:
    reasons = set()
    for output in engine.generate(PROMPTS, 1.0, 10):
        reasons.add(output.finish_reason)
        assert output.new_tokens == 10 or output.finish_reason == "stop"
    assert reasons == {"stop", "length"}
    assert engine.decoder.end_ids == {*END_TOKENS, engine.tokenizer.eos_token_id}


def test_a_prompt_without_room_fails_and_an_answer_ends_with_the_context(
    engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.decoder, "end_ids", set())
    frame = len(engine.encode([engine.render(Prompt("", "", ""))])[0])
    prompts = [Prompt(f"{n}", "", "x" * (n - frame)) for n in (CONTEXT, CONTEXT - 1, CONTEXT - 7)]
    outputs = {output.key: output for output in engine.generate(prompts, 0.0, 50)}
    long = outputs[f"{CONTEXT}"]
    assert (long.finish_reason, long.text, long.prompt_tokens) == ("failed", "", CONTEXT)
    assert f"{CONTEXT} tokens leave no room in the model's {CONTEXT}" in long.error
    assert [outputs[f"{CONTEXT - n}"].new_tokens for n in (1, 7)] == [1, 7]
    assert outputs[f"{CONTEXT - 7}"].finish_reason == "length"
    with pytest.raises(UserError, match=f"{CONTEXT + 1} tokens are more than the model's"):
        list(engine.loglikelihoods([prompts[0]], [["y"]]))


def test_short_memory_halves_the_batch_and_loses_nothing(
    engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, forward = alone(engine, 1.0), engine.causal_lm.forward

    def small_device(ids: torch.Tensor, **arguments: Any) -> Any:
        if ids.shape[0] > 3:
            raise torch.OutOfMemoryError("no memory for more than three rows")
        return forward(ids, **arguments)

    monkeypatch.setattr(engine.causal_lm, "forward", small_device)
    outputs = answers(engine, PROMPTS, 1.0)
    assert {key: output.text for key, output in outputs.items()} == expected
    assert engine.decoder.tokens_per_batch < 16_384
    monkeypatch.setattr(engine.causal_lm, "forward", lambda *_, **__: small_device(torch.ones(9)))
    with pytest.raises(UserError, match="memory does not suffice"):
        answers(engine, PROMPTS, 1.0)


sequences = st.lists(st.lists(st.integers(20, 22), min_size=1, max_size=7), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.lists(sequences, min_size=1, max_size=3), st.data())
def test_a_sequence_in_a_tree_is_seen_as_if_alone(
    engine: HFEngine, groups: list[list[list[int]]], data: st.DataObject
) -> None:
    """Also where a tree takes over keys and values from the one before, and in any order."""
    tree: PrefixTree | None = None
    for group in groups:
        tree = PrefixTree(tree)
        begins = [data.draw(st.integers(0, len(ids) - 1)) for ids in group]
        for ids, begin in zip(group, begins, strict=True):
            tree.add(np.array(ids), begin)
        asked = [path[begin:] for path, begin in zip(tree.paths, begins, strict=True)]
        found = tree.read(engine.causal_lm, np.concatenate(asked)).split([len(a) for a in asked])
        for ids, begin, logits in zip(group, begins, found, strict=True):
            with torch.inference_mode():
                expected = engine.causal_lm(torch.tensor([ids])).logits[0, begin:]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_shared_beginnings_are_read_once() -> None:
    tree = PrefixTree()
    for ids in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 5, 6], [1, 7]):
        tree.add(np.array(ids), len(ids) - 1)
    assert tree.num_tokens == 4 + 2 + 0 + 1


def full_pass(engine: HFEngine, prompt: Prompt, continuation: str) -> float:
    """Log-probability of a continuation by one plain forward pass."""
    text = engine.render(prompt)
    alone, whole = engine.encode([text.rstrip(), text + continuation])
    with torch.inference_mode():
        logp = engine.causal_lm(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logp[i - 1, whole[i]]) for i in range(len(alone), len(whole)))


@pytest.mark.parametrize("tree_tokens", [512, 1])
def test_log_likelihoods_are_those_of_a_plain_forward_pass(
    engine: HFEngine, tree_tokens: int
) -> None:
    engine.decoder.tree_tokens = tree_tokens
    options = [["A", "B", "a long option", ""] if i % 2 else [" (A)"] for i in range(len(PROMPTS))]
    found = dict(engine.loglikelihoods(PROMPTS, options))
    assert set(found) == {prompt.key for prompt in PROMPTS}
    for prompt, texts in zip(PROMPTS, options, strict=True):
        expected = [full_pass(engine, prompt, text) for text in texts]
        assert found[prompt.key] == pytest.approx(expected, abs=1e-4)
        assert len(set(expected)) == len(texts)


def test_the_embedded_model_answers_as_transformers_has_it_answer(smollm2: Pretrained) -> None:
    """Greedy texts are `generate`'s, and log-likelihoods those of a plain forward pass."""
    engine = HFEngine("smollm2_135m", device="cpu")
    system = "You are an AI assistant."
    users = ["2+2=", "Name a colour.", "Which letter follows A? Answer with the letter only."]
    users += ["Say no.", "Is 2 even? Answer yes or no.", "Why? " * 9]
    prompts = [Prompt(user, system if i % 2 else "", user) for i, user in enumerate(users)]
    found = {output.key: output for output in engine.generate(prompts, 0.0, 12)}
    for prompt in prompts:
        ids = torch.tensor(engine.encode([engine.render(prompt)]))
        with torch.inference_mode():
            whole = engine.causal_lm.generate(ids, max_new_tokens=12, do_sample=False)[0]
        expected = engine.tokenizer.decode(whole[ids.shape[1] :], skip_special_tokens=True)
        assert found[prompt.key].text == expected
    assert {output.finish_reason for output in found.values()} == {"stop", "length"}
    ((_, scores),) = engine.loglikelihoods(prompts[:1], [["A", "Red is a colour."]])
    expected = [full_pass(engine, prompts[0], text) for text in ("A", "Red is a colour.")]
    assert scores == pytest.approx(expected, abs=1e-4)


def test_special_tokens_that_a_message_spells_are_text(engine: HFEngine) -> None:
    eos = engine.tokenizer.eos_token_id
    assert eos not in engine.encode([engine.render(Prompt("", "a </s>", "b </s> c"))])[0]
    assert engine.tokenizer.eos_token == "</s>"


def test_a_model_is_asked_by_a_template_it_has_or_is_given(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in tiny.iterdir():
        if "chat_template" not in file.name:
            (base / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"no chat template.*template@engine.template=orca"):
        HFEngine(str(base), device="cpu")
    with pytest.raises(UserError, match=r"does not know <\|im_end\|>, <\|im_start\|>"):
        HFEngine(str(base), device="cpu", template=CHATML_TEMPLATE)
    text = HFEngine(str(base), device="cpu", template=ORCA_TEMPLATE).render(PROMPTS[0])
    assert text == ORCA_TEMPLATE.prompt("Think.", "Question 0?")


def test_the_configuration_builds_the_engine(tiny: Path) -> None:
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        plain = compose(overrides=["+engine=hf"])
        given = compose(overrides=["+engine=hf", "template@engine.template=orca"])
    plain.engine.model = str(tiny)
    assert instantiate(plain.engine, _convert_="all").describe()["model"] == str(tiny)
    assert given.engine.template.name == "orca"


def test_the_description_tells_weights_apart(tiny: Path, engine: HFEngine, tmp_path: Path) -> None:
    """Two models of one architecture have files of equal names and sizes."""
    before = engine.describe()
    assert before["dtype"] == "float32" and before["device"] == "cpu"
    model = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        next(model.parameters())[3, 5] += 1e-3
    shutil.copytree(tiny, tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    assert HFEngine(str(tmp_path / "other")).describe()["weights"] != before["weights"]
    assert HFEngine(str(tiny)).describe()["weights"] == before["weights"]
    json.dumps(before)


@pytest.mark.parametrize(
    ("template", "own"),
    [
        ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", ""),
        (
            "{% if messages[0].role != 'system' %}<system>I am Tiny{% endif %}"
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
            "I am Tiny",
        ),
        (  # a head of its own stays, as it is there with any system message
            "Today is Monday.{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
            "",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
            "",
        ),
    ],
)
def test_a_templates_own_system_message_gives_way_to_the_empty_one(
    tiny: Path, template: str, own: str
) -> None:
    engine = HFEngine(str(tiny))
    engine.tokenizer.chat_template = template
    assert engine.own_system_message == own
    rendered = engine.render(Prompt("k", "", "Q"))
    assert "I am Tiny" not in rendered and rendered.endswith("<user>Q")
    assert ("<system><user>" in rendered) == bool(own)
    assert ("system message" in engine.describe()) == bool(own)


def test_the_embedded_model_is_asked_with_the_empty_system_message(smollm2: Pretrained) -> None:
    engine = ModelEngine.__new__(ModelEngine)
    engine.tokenizer = smollm2.tokenizer()
    assert "SmolLM" in engine.own_system_message
    rendered = engine.render(Prompt("k", "", "Q"))
    assert rendered.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ<|im_end|>")


def test_models_that_are_not_to_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="random weights"):
        find_model("tiny")
    with pytest.raises(UserError, match=r"no config\.json"):
        find_model(str(tmp_path))
    with pytest.raises(UserError, match="no such directory"):
        HFEngine(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"engine\.dtype=int8"):
        HFEngine("smollm2_135m", dtype="int8")


def test_attention_that_trees_would_change_is_refused(tmp_path: Path) -> None:
    """RecurrentGemma passes states along the row, from one branch of a tree into the next; Bloom
    has no attention that takes a mask of ours."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        RecurrentGemmaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    ).eval()
    with pytest.raises(UserError, match=r"recurrent_gemma does not have.*take engine=vllm"):
        check_attention(Decoder(model, {1}, 1_000), "take engine=vllm")
    bloom = BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4)
    AutoModelForCausalLM.from_config(bloom).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="Take engine=vllm, if vLLM knows it"):
        load(Pretrained("bloom", str(tmp_path), 0.0), torch.float32, "cpu")


def test_a_batch_has_a_limit_of_rows(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "MOST_ROWS", 2)
    sizes: list[int] = []
    step = Decoder._step
    monkeypatch.setattr(Decoder, "_step", lambda *a: (sizes.append(len(a[1])), step(*a))[1])
    assert len(answers(engine, PROMPTS[:5], 1.0)) == 5
    assert max(sizes) == 2
