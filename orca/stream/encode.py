"""Traces → token ids with the place where the targets begin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca.traces import Template, Trace, begins_with_bos, match_system_message, plain_text

MIN_QUERY_TOKENS = 16
"""What must be left of a query that is cut (all of a shorter one): a response without its query
teaches nothing."""


@dataclass(slots=True)
class Example:
    """A tokenised trace.

    ``tokens`` is int32 [length] and ends in EOS; ``tokens[num_prompt:]`` are the targets, EOS
    included. ``number`` is its row in the source, ``place`` its position in the epoch's order,
    ``rank`` the same among the examples that were kept.
    """

    id: str
    tokens: np.ndarray
    num_prompt: int
    teacher: str
    sub_collection: str
    system_message: str
    truncated: int = 0
    spelled_special: bool = False
    number: int = -1
    place: int = -1
    rank: int = -1

    @property
    def num_targets(self) -> int:
        return len(self.tokens) - self.num_prompt


class TooLong(Exception):
    """The response, the headings and the least share of the query do not fit in ``max_tokens``."""


class Encoder:
    """Tokenises traces as training sees them; the same ids as ``apply_chat_template`` gives.

    The whole text is tokenised at once and the boundary found by character offsets: tokenising
    prompt and response apart would insert a space marker with SentencePiece tokenizers. Over-long
    examples lose tokens at the left of the query (`docs/reproduction.md`).

    Args:
        tokenizer: a fast tokenizer that :meth:`Template.prepare` has prepared.
        max_tokens: longest example, in tokens.
    """

    def __init__(self, tokenizer: Any, template: Template, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.eos = tokenizer.eos_token
        self.bos = tokenizer.bos_token if begins_with_bos(tokenizer) else ""
        self.special_tokens = list(tokenizer.all_special_tokens)

    def encode(self, traces: Sequence[Trace]) -> list[Example | TooLong]:
        """One :class:`Example` per trace, or a :class:`TooLong` in its place."""
        rendered, spelled = [], []
        for trace in traces:
            parts = [
                plain_text(text, self.special_tokens)
                for text in (trace.system_message, trace.query, trace.response)
            ]
            spelled.append(any(changed for _, changed in parts))
            system, query, response = (text for text, _ in parts)
            rendered.append(self.template.render(system, query, response, self.eos, self.bos))
        if not traces:
            return []
        encodings = self.tokenizer._tokenizer.encode_batch(
            [one.text for one in rendered], add_special_tokens=False
        )
        examples: list[Example | TooLong] = []
        for trace, text, changed, encoding in zip(
            traces, rendered, spelled, encodings, strict=True
        ):
            starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64)
            num_prompt = int(np.searchsorted(starts, text.response_start))
            tokens = np.array(encoding.ids, dtype=np.int32)
            excess = len(tokens) - self.max_tokens
            if excess > 0:
                first = int(np.searchsorted(starts, text.query_start))
                last = int(np.searchsorted(starts, text.query_end))
                cut = first + excess
                while cut < last and starts[cut] == starts[cut - 1]:
                    cut += 1  # a character of several tokens goes as a whole
                if cut > last - min(MIN_QUERY_TOKENS, last - first):
                    examples.append(TooLong())
                    continue
                tokens = np.delete(tokens, slice(first, cut))
                excess = cut - first
                num_prompt -= excess
            number = match_system_message(trace.system_message)
            examples.append(
                Example(
                    id=trace.id,
                    tokens=tokens,
                    num_prompt=num_prompt,
                    teacher=trace.teacher,
                    sub_collection=trace.sub_collection,
                    system_message="other" if number is None else str(number),
                    truncated=max(0, excess),
                    spelled_special=changed,
                )
            )
        return examples

    def fingerprint(self) -> dict[str, str]:
        """Short hashes of what decides the token ids."""
        backend = self.tokenizer._tokenizer.to_str()
        return {
            "tokenizer": hashlib.sha256(backend.encode()).hexdigest()[:16],
            "template": hashlib.sha256(self.tokenizer.chat_template.encode()).hexdigest()[:16],
            "special tokens": f"bos={self.bos!r} eos={self.eos!r}",
        }
