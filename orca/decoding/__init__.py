"""Continues rows of tokens with a causal LM; rows come and leave, shared beginnings cost once."""

from orca.decoding.decoder import Decoder, Question, Row
from orca.decoding.limits import check_attention, context_of, end_tokens, tokens_that_fit
from orca.decoding.prefix_tree import Ids, PrefixTree
from orca.decoding.row_cache import RowCache

__all__ = [
    "Decoder",
    "Ids",
    "PrefixTree",
    "Question",
    "Row",
    "RowCache",
    "check_attention",
    "context_of",
    "end_tokens",
    "tokens_that_fit",
]
