"""Figures, tables and sentences that the Markdown card and the page show alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orca.mixture.card_counts import LONG_REQUESTS
from orca.mixture.query import CHARACTERS_PER_TOKEN

UNKNOWN = "–"
MEASURE_NAMES = {
    "query_characters": "query, characters",
    "query_words": "query, words",
    "target_characters": "first target, characters",
    "target_words": "first target, words",
}
TYPE_NOTE = (
    "The template type is FLAN’s where the source says it. For templates rendered from raw rows it "
    "is promptsource’s flag (choices_in_prompt); for tables of CoT, zs_opt is a query with a "
    "line that begins with “Options:”; for NiV2 it is always zs_opt, options or not, as FLAN has "
    "no other; and it is zs where the rows do not say."
)
FEW = 3  # largest and smallest tasks of a collection


def number(value: int | float | None) -> str:
    """``12,345``; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def percent(share: float | None) -> str:
    """``12.3%``; a dash for what is not known, and never 0.0% for what is there."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}" if share else "0%"


def short(value: int) -> str:
    """``1.23 million``."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value:,}"


def shortened(text: Any, longest: int) -> str:
    """The first characters, with an ellipsis where more follow."""
    return str(text) if len(str(text)) <= longest else str(text)[:longest] + "…"


def collection_name(card: Mapping[str, Any], collection: str) -> str:
    """As the paper writes it."""
    return str(card["paper"].get(collection, {}).get("name", collection))


def whole_set(card: Mapping[str, Any]) -> dict[str, Any]:
    """The first set, of which the others are samples."""
    return next(iter(card["sets"].values()))


def collections(card: Mapping[str, Any]) -> list[str]:
    """All that a set, the pool, a bad row or an exclusion names; those of the whole set first."""
    names = list(whole_set(card)["collections"])
    for one in card["sets"].values():
        names += one["collections"]
    names += [task["collection"] for task in card["tasks"]]
    return list(dict.fromkeys([*names, *card["bad_rows"], *card["excluded"]]))


def tasks_text(card: Mapping[str, Any], set_name: str, collection: str | None = None) -> str:
    """``13 of 14``: tasks with queries in the set, of all of the pool; ``14`` when all have some.

    A dash where there is no task; without ``collection``, tasks of all collections.
    """
    tasks = [t for t in card["tasks"] if collection in (None, t["collection"])]
    if not tasks and collection is not None:
        return UNKNOWN
    some = sum(t["queries"][set_name] > 0 for t in tasks)
    return number(some) if some == len(tasks) else f"{number(some)} of {number(len(tasks))}"


def candidates(card: Mapping[str, Any], collection: str) -> int | None:
    """Queries of the pool; None when nobody told."""
    return _total(card, collection, "candidates")


def drawn(card: Mapping[str, Any], collection: str) -> int | None:
    """Queries that were drawn of the pool, before hygiene; None when nobody told."""
    return _total(card, collection, "sampled")


def _total(card: Mapping[str, Any], collection: str, key: str) -> int | None:
    counts = [task[key] for task in card["tasks"] if task["collection"] == collection]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def paper_share(card: Mapping[str, Any], collection: str) -> float | None:
    """Share of the paper's 5.09 million queries; None for a collection that it does not have."""
    if collection not in card["paper"]:
        return None
    whole = sum(row["sampled"] for row in card["paper"].values())
    return card["paper"][collection]["sampled"] / whole


def warnings(card: Mapping[str, Any]) -> list[str]:
    """A sentence for every collection and set with fewer queries than were asked for."""
    lines = []
    for name, one in card["asked"]["collections"].items():
        if one["drawn"] < one["asked"]:
            smaller = (candidates(card, name) or 0) < one["asked"]
            why = "the pool is smaller" if smaller else "the sampler takes no more of its pool"
            counts = f"{number(one['drawn'])} queries drawn, {number(one['asked'])} asked for"
            lines.append(f"{collection_name(card, name)}: {counts}: {why}")
    for name, one in card["asked"]["sets"].items():
        if one["queries"] < one["asked"]:
            counts = f"{number(one['queries'])} queries, {number(one['asked'])} asked for"
            lines.append(f"{name}: {counts}: no more were drawn and kept")
    return lines


# What is sent -------------------------------------------------------------------------------------


def request_rows(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The collections of the whole set, then every set, with the shares of long requests."""
    whole = next(iter(card["sets"]))
    parts: list[tuple[str | None, str, Mapping[str, Any]]] = [
        (collection, collection_name(card, collection), counts)
        for collection, counts in card["sets"][whole]["collections"].items()
    ]
    parts += [(None, f"all of {name}", one) for name, one in card["sets"].items()]
    return [
        {
            "collection": collection,
            "name": name,
            "queries": counts["queries"],
            "estimated_tokens": counts["estimated_tokens"],
            "longest": counts["longest_request"],
            "longest_tokens": counts["longest_request"] // CHARACTERS_PER_TOKEN,
            "over": {
                int(tokens): n / counts["queries"] if counts["queries"] else None
                for tokens, n in counts["requests_over"].items()
            },
        }
        for collection, name, counts in parts
    ]


def request_note() -> str:
    """What the estimate is, and its thresholds in characters."""
    limits = " and ".join(
        f"{number(tokens)} tokens are {number(CHARACTERS_PER_TOKEN * tokens)} characters"
        for tokens in LONG_REQUESTS
    )
    return (
        "A request is a system message with its query. Tokens are an estimate at "
        f"{CHARACTERS_PER_TOKEN} characters a token ({limits}); code and languages other than "
        "English take more."
    )


def price_sentences(card: Mapping[str, Any]) -> str:
    """What the prompts of every set would cost at the paper's prices."""
    costs = []
    for name, one in card["sets"].items():
        each = " and ".join(
            f"{dollars(one['estimated_tokens'] / 1_000 * price['prompt'])} with {teacher}"
            for teacher, price in card["prices"].items()
        )
        costs.append(f"the prompts of {name} cost about {each}")
    prices = ", ".join(
        f"{teacher} ${price['prompt']:g}" for teacher, price in card["prices"].items()
    )
    responses = ", ".join(
        f"{teacher} ${price['completion']:g}" for teacher, price in card["prices"].items()
    )
    return (
        f"As an example, at the prices of the paper’s Table 4 for 1,000 tokens of a prompt "
        f"({prices}), {'; '.join(costs)}. Responses come on top ({responses} for 1,000 tokens)."
    )


def dollars(value: float) -> str:
    """``$2.22``; ``$12,345`` without cents."""
    return f"${value:,.2f}" if value < 1_000 else f"${value:,.0f}"


# Tasks and targets --------------------------------------------------------------------------------


def task_extremes(card: Mapping[str, Any]) -> list[list[str]]:
    """Per collection: its name, its tasks, the largest and the smallest few."""
    name = next(iter(card["sets"]))
    rows = []
    for collection in collections(card):
        tasks = [t for t in card["tasks"] if t["collection"] == collection]
        tasks.sort(key=lambda task: -task["queries"][name])
        texts = [f"{task['task']} ({number(task['queries'][name])})" for task in tasks]
        rest = texts[FEW:][-FEW:]
        row = [collection_name(card, collection), tasks_text(card, name, collection)]
        rows.append([*row, ", ".join(texts[:FEW]), ", ".join(rest)])
    return rows


def target_groups(targets: Mapping[str, int]) -> list[int]:
    """Queries with no gold target, one, two, and three or more."""
    few = [targets.get(n, 0) for n in ("0", "1", "2")]
    return [*few, sum(targets.values()) - sum(few)]
