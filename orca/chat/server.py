"""A model behind an OpenAI-compatible server (``vllm serve``, ``transformers serve``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai

from orca.chat.conversation import CONTROLS, Conversation
from orca.errors import UserError
from orca.teacher import Endpoint


class ServedModel:
    """Answers of a server, as they come.

    The server renders the prompt. An empty system message is sent as such, since without one a
    chat template may write its own.

    Args:
        endpoint: address, the model's name there, and the variable of a key.

    Raises:
        UserError: the variable has no key. That there is no server, or no model of this name, is
            told when it is asked.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.model
        self.finish_reason = ""
        self.endpoint = endpoint
        self._client = openai.OpenAI(
            base_url=endpoint.base_url, api_key=endpoint.key(), max_retries=0
        )

    def describe(self) -> list[str]:
        return [f"model: {self.name} at {self.endpoint.base_url}", "template: the server's"]

    def messages(self, conversation: Conversation) -> list[dict[str, str]]:
        """What is sent."""
        messages = conversation.messages()
        if not conversation.system_message:
            messages.insert(0, {"role": "system", "content": ""})
        return messages

    def answer(
        self, conversation: Conversation, temperature: float, max_new_tokens: int, seed: int
    ) -> Iterator[str]:
        messages: Any = self.messages(conversation)
        try:
            stream = self._client.chat.completions.create(
                model=self.name,
                messages=messages,
                temperature=temperature,
                max_tokens=max_new_tokens,
                seed=seed,
                stream=True,
            )
            self.finish_reason = "no end was sent"
            with stream:  # what ends the chat's waiting ends the request too
                for chunk in stream:
                    for choice in chunk.choices:
                        if choice.delta.content:
                            yield choice.delta.content
                        if choice.finish_reason:
                            self.finish_reason = choice.finish_reason
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise UserError(
                f"base_url={self.endpoint.base_url}: no answer ({reason}); is the server running?"
            ) from None
        except (openai.OpenAIError, json.JSONDecodeError) as error:  # the latter of its events
            told = str(error).translate(CONTROLS)
            raise UserError(f"base_url={self.endpoint.base_url}: {told}") from None

    def raw(self, conversation: Conversation) -> str:
        sent = conversation.messages()[:-1]
        return "the server renders the prompt; it was sent\n" + "\n".join(
            json.dumps(message, ensure_ascii=False) for message in sent
        )
