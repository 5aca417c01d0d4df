"""A causal LM that is in memory: what it is given, and its answers as text."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError

from orca.decoding import Decoder, Question, Row, check_attention, context_of, end_tokens
from orca.errors import UserError
from orca.evaluation.engine import Output, Prompt
from orca.traces import plain_text


class ModelEngine:
    """Answers of a causal LM and its tokenizer.

    Prompts are rendered by the tokenizer's own chat template; special tokens that a message spells
    are broken up, as in training. Where the template writes a system message of its own when none
    is given, an empty one is given: the paper's is empty. Of the generation configuration only the
    end tokens are used. A prompt that leaves no room for an answer fails; an answer ends where the
    model's context does.

    Args:
        causal_lm: of `transformers`, in evaluation mode, with attention that takes masks.
        tokenizer: with a chat template.
        tokens_per_batch: tokens whose keys and values are kept at a time.
        otherwise: what to do with a model whose attention is not full, for the error.

    Raises:
        UserError: the model's attention is not full, or it does not tell how long its context is.
    """

    def __init__(
        self, causal_lm: Any, tokenizer: Any, tokens_per_batch: int, otherwise: str
    ) -> None:
        self.causal_lm = causal_lm
        self.tokenizer = tokenizer
        self.context = context_of(causal_lm.config)
        self.decoder = Decoder(causal_lm, end_tokens(causal_lm, tokenizer), tokens_per_batch)
        check_attention(self.decoder, otherwise)

    def describe(self) -> dict[str, Any]:
        """How answers are computed."""
        weight = self.causal_lm.get_input_embeddings().weight
        template = str(self.tokenizer.chat_template)
        return {
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": device_name(weight.device),
            "attention": self.causal_lm.config._attn_implementation,
            "transformers": importlib.metadata.version("transformers"),
            "torch": importlib.metadata.version("torch"),
            "template": hashlib.sha256(template.encode()).hexdigest()[:16],
            **self.system_message_facts(),
        }

    def system_message_facts(self) -> dict[str, str]:
        """Where the empty system message takes the place of the template's own: says so."""
        own = self.own_system_message
        return {"system message": "empty, not the template's"} if own else {}

    def render(self, prompt: Prompt) -> str:
        """The text that the model continues."""
        return self.render_messages(prompt.messages())

    def render_messages(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a conversation, to its next answer.

        Args:
            messages: role and content of each; without a system message, the empty one is meant.
        """
        if messages[0]["role"] != "system" and self.own_system_message:
            messages = [{"role": "system", "content": ""}, *messages]
        special = self.tokenizer.all_special_tokens
        return self._templated(
            [{**m, "content": plain_text(m["content"], special)[0]} for m in messages]
        )

    @cached_property
    def own_system_message(self) -> str:
        """What the chat template writes as the system message when none is given; "": nothing."""
        user = {"role": "user", "content": "user message"}
        try:
            given = self._templated([{"role": "system", "content": "system message"}, user])
        except TemplateError:  # it knows no system messages
            return ""
        before, _, after = given.partition("system message")
        without = self._templated([user])
        if not (without.startswith(before) and without.endswith(after)):
            return ""
        return without[len(before) : len(without) - len(after)]

    def _templated(self, messages: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts; the template has written what begins a text."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def room(self, prompt: Prompt) -> int:
        """Tokens of the model's context that a prompt leaves; 0 or less: it fails."""
        return self.context - len(self.encode([self.render(prompt)])[0])

    def generate(
        self, prompts: Sequence[Prompt], temperature: float, max_new_tokens: int
    ) -> Iterator[Output]:
        """Answers; at temperature 0 the most likely tokens, else by each prompt's seed alone."""
        rows = []
        for i, ids in enumerate(self.encode([self.render(prompt) for prompt in prompts])):
            limit = min(max_new_tokens, self.context - len(ids))
            if limit > 0:
                rows.append(Row(i, ids, prompts[i].seed, limit))
            else:
                error = f"{len(ids)} tokens leave no room in the model's {self.context}"
                yield Output(prompts[i].key, "", "failed", len(ids), error=error)
        for row in self.decoder.generate(rows, temperature):
            yield Output(
                key=prompts[row.index].key,
                text=self.tokenizer.decode(row.new_ids, skip_special_tokens=True),
                finish_reason="stop" if row.ended else "length",
                prompt_tokens=row.prompt_tokens,
                new_tokens=len(row.new_ids),
                latency=row.seconds,
            )

    def loglikelihoods(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, list[float]]]:
        """(key, log-probability of each continuation in nats), as lm-eval counts it.

        Text and continuation are encoded together and split where the text alone ends. White space
        at the end of the rendered prompt belongs to the continuation, as its tokens may merge.

        Raises:
            UserError: a prompt with its continuation is longer than the model's context.
        """
        questions = []
        for i, (prompt, options) in enumerate(zip(prompts, continuations, strict=True)):
            text = self.render(prompt)
            alone, *whole = self.encode([text.rstrip(), *(text + option for option in options)])
            longest = max(map(len, whole))
            if longest > self.context:
                raise UserError(
                    f"{prompt.key}: {longest} tokens are more than the model's {self.context}"
                )
            questions.append(Question(i, [np.asarray(ids) for ids in whole], len(alone)))
        for index, scores in self.decoder.loglikelihoods(questions):
            yield prompts[index].key, scores


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
