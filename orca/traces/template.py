"""The prompt template, once for training and once as the Jinja that travels with the tokenizer.

Both are made from the same four strings, so they cannot drift apart; a test compares the token
ids. Figure 13 of the paper shows the headings; the newlines are this project's choice
(`docs/reproduction.md`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orca.errors import UserError


@dataclass(frozen=True, slots=True)
class Rendered:
    """A trace as text. The query is ``text[query_start:query_end]``; the response and the end
    mark begin at ``response_start``."""

    text: str
    query_start: int
    query_end: int
    response_start: int


@dataclass(frozen=True)
class Template:
    """How a trace becomes text.

    Args:
        name: ``orca`` or ``chatml``, recorded with the run.
        system: text around ``{}`` for a system message; left out when the message is empty.
        query: text around ``{}`` for the query.
        response: the text that comes before the response (the generation prompt).
        end: the mark that ends a response, a special token; None for the tokenizer's own EOS.
        special_tokens: marks that must be single tokens; added to the tokenizer when missing.
    """

    name: str
    system: str
    query: str
    response: str
    end: str | None = None
    special_tokens: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in ("system", "query"):
            if getattr(self, field).count("{}") != 1:
                raise UserError(
                    f"template.{field} must contain {{}} once: {getattr(self, field)!r}"
                )
        if self.end is not None and self.end not in self.special_tokens:
            raise UserError(f"template.end={self.end!r} must be one of template.special_tokens")

    def prepare(self, tokenizer: Any) -> int:
        """Make ``tokenizer`` speak this template; returns how many tokens were added.

        Adds the template's marks, sets EOS to ``end``, adds ``[[PAD]]`` (the paper's
        32,001st token, section 3.2) when the pad token is missing or equal to EOS, and stores
        the Jinja template. A pad token that equals EOS teaches a model never to stop.
        """
        missing = [t for t in self.special_tokens if t not in tokenizer.get_vocab()]
        added = tokenizer.add_tokens(missing, special_tokens=True) if missing else 0
        if self.end is not None:
            tokenizer.eos_token = self.end
        if tokenizer.eos_token is None:
            raise UserError("the tokenizer has no EOS token; set template.end to a special token")
        if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
            added += tokenizer.add_special_tokens({"pad_token": "[[PAD]]"})
        tokenizer.chat_template = self.jinja(begins_with_bos(tokenizer))
        return added

    def prompt(self, system_message: str, query: str, bos: str = "") -> str:
        """The text that a model continues with its response."""
        system = self.system.replace("{}", system_message) if system_message else ""
        return bos + system + self.query.replace("{}", query) + self.response

    def render(
        self, system_message: str, query: str, response: str, eos: str, bos: str = ""
    ) -> Rendered:
        """A whole trace as text, with the places of its parts."""
        prompt = self.prompt(system_message, query, bos)
        query_end = len(prompt) - len(self.response) - len(self.query.partition("{}")[2])
        return Rendered(
            text=prompt + response + eos,
            query_start=query_end - len(query),
            query_end=query_end,
            response_start=len(prompt),
        )

    def jinja(self, with_bos: bool) -> str:
        """The same template for ``tokenizer.apply_chat_template``."""

        def around(text: str, body: str) -> str:
            before, _, after = text.partition("{}")
            return " + ".join(part for part in (_quote(before), body, _quote(after)) if part)

        content = "message['content']"
        end = "eos_token" if self.end is None else _quote(self.end)
        return "".join(
            [
                "{{ bos_token }}" if with_bos else "",
                "{% for message in messages %}",
                "{% if message['role'] == 'system' %}",
                f"{{% if {content} %}}{{{{ {around(self.system, content)} }}}}{{% endif %}}",
                "{% elif message['role'] == 'user' %}",
                f"{{{{ {around(self.query, content)} }}}}",
                "{% elif message['role'] == 'assistant' %}",
                f"{{{{ {_quote(self.response)} + {content} + {end} }}}}",
                "{% else %}{{ raise_exception('unknown role: ' + message['role']) }}",
                "{% endif %}{% endfor %}",
                f"{{% if add_generation_prompt %}}{{{{ {_quote(self.response)} }}}}{{% endif %}}",
            ]
        )


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS token before a text of its own accord (LLaMA does)."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def plain_text(text: str, special_tokens: Sequence[str]) -> tuple[str, bool]:
    """``text`` without spelled special tokens, and whether it had any.

    A query that contains the characters ``<|im_end|>`` would otherwise end the message there, in
    training as in chat. A space after the first character keeps it readable and harmless.
    """
    pattern = "|".join(re.escape(token) for token in special_tokens if len(token) > 1)
    if not pattern or not re.search(pattern, text):
        return text, False
    return re.sub(pattern, lambda match: f"{match[0][0]} {match[0][1:]}", text), True


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
