"""One template for training, chat and export: the token ids are the same."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import CHATML_TEMPLATE, ORCA_TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st

from orca.errors import UserError
from orca.stream import Encoder, Example
from orca.traces import Template, Trace, plain_text
from orca.training import Pretrained, byte_tokenizer


def llama_like_tokenizer() -> Any:
    """A SentencePiece-style tokenizer that puts BOS first and marks spaces, as LLaMA's does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate(special)}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for character in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ#:.!?":
        vocabulary[character] = len(vocabulary)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("#", "#")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module", params=["bytes", "smollm2", "llama-like"])
def raw_tokenizer(request: pytest.FixtureRequest, smollm2: Pretrained) -> Any:
    kinds = {
        "bytes": byte_tokenizer,
        "smollm2": smollm2.tokenizer,
        "llama-like": llama_like_tokenizer,
    }
    return kinds[request.param]


@pytest.mark.parametrize("template", [ORCA_TEMPLATE, CHATML_TEMPLATE], ids=lambda t: t.name)
def test_training_and_chat_template_give_the_same_token_ids(
    raw_tokenizer: Any, template: Template
) -> None:
    tokenizer = raw_tokenizer()
    template.prepare(tokenizer)
    encoder = Encoder(tokenizer, template, 4096)
    texts = [
        ("", "the question?", "the answer."),
        ("Be kind.", "two\n\nlines\n", "# A list:\n- one\n- two"),
        ("ü – “x”", "emoji 🐋 and {} {braces}", "日本語 done"),
        ("system", " leading space", "1 2 3"),
    ]
    for system, query, response in texts:
        (example,) = encoder.encode([Trace("i", system, query, response)])
        assert isinstance(example, Example)
        messages = [{"role": "user", "content": query}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        messages.append({"role": "assistant", "content": response})
        whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert example.tokens.tolist() == whole
        assert example.tokens[: example.num_prompt].tolist() == prompt
        assert whole[-1] == tokenizer.eos_token_id
        if "llama" in type(tokenizer).__name__.lower() or tokenizer.bos_token == "<s>":
            begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
            assert (whole[0] == tokenizer.bos_token_id) == begins


@settings(max_examples=60, deadline=None)
@given(
    system=st.text(max_size=30),
    query=st.text(min_size=1, max_size=60),
    response=st.text(min_size=1, max_size=60).filter(str.strip),
)
def test_any_text_renders_the_same_in_training_and_chat(
    tokenizer: Any, system: str, query: str, response: str
) -> None:
    response = response.strip()
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 4096)
    (example,) = encoder.encode([Trace("i", system, query, response)])
    plain = [plain_text(t, encoder.special_tokens)[0] for t in (system, query, response)]
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("system", "user", "assistant"), plain, strict=True)
    ]
    whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert isinstance(example, Example) and example.tokens.tolist() == whole


def test_an_empty_system_message_leaves_the_block_out() -> None:
    assert ORCA_TEMPLATE.prompt("", "Q") == "### Human:\nQ\n\n### Assistant:\n"
    assert ORCA_TEMPLATE.prompt("S", "Q").startswith("### System:\nS\n\n### Human:\n")


def test_a_pad_token_is_added_where_it_is_missing_or_ends_texts(smollm2: Pretrained) -> None:
    for tokenizer in (byte_tokenizer(), smollm2.tokenizer()):
        assert ORCA_TEMPLATE.prepare(tokenizer) == 1
        assert tokenizer.pad_token == "[[PAD]]"
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        assert ORCA_TEMPLATE.prepare(tokenizer) == 0  # a second time changes nothing


def test_chatml_marks_become_single_tokens_and_end_a_response() -> None:
    tokenizer = byte_tokenizer()
    assert CHATML_TEMPLATE.prepare(tokenizer) == 3
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer("<|im_start|>", add_special_tokens=False)["input_ids"]) == 1


def test_special_tokens_spelled_in_a_text_do_not_become_special(tokenizer: Any) -> None:
    text, changed = plain_text("a </s> b [[PAD]]", tokenizer.all_special_tokens)
    assert changed and text == "a < /s> b [ [PAD]]"
    encoder = Encoder(tokenizer, ORCA_TEMPLATE, 512)
    (example,) = encoder.encode([Trace("i", "", "stop </s> here", "done")])
    assert isinstance(example, Example) and example.spelled_special
    assert example.tokens.tolist().count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("wrong", ["no place", "{} twice {}"])
def test_a_template_without_one_place_for_the_text_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match=r"template\.query"):
        Template("t", "{}", wrong, "A:")
