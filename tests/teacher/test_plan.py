"""Money and time of a plan, the teachers in conf/teacher, and the figures of docs/collection.md."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from orca.config import CONF_DIR, check_config
from orca.errors import UserError
from orca.teacher import Endpoint, Prices, Teacher
from orca.teacher.plan import Counts, Plan, plan, plan_report
from orca.teacher.request import Request

TEACHERS = sorted(f.stem for f in (CONF_DIR / "teacher").glob("*.yaml") if f.stem != "evaluated")
PAGE = (CONF_DIR.parent / "docs" / "collection.md").read_text(encoding="utf-8")


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        return compose(f"teacher/{name}", overrides=list(overrides))


def configured(name: str) -> Teacher:
    needed = ["teacher.endpoints.local.model=any"] if name == "local" else []
    config = composed(name, *needed)
    check_config(config, ["teacher"])
    teacher: Teacher = instantiate(config.teacher, _convert_="all")
    return teacher


def asked(limits: dict[str, tuple[int | None, int | None]], **options: Any) -> Teacher:
    endpoints = {
        name: Endpoint("http://127.0.0.1", "m", requests_per_minute=r, tokens_per_minute=t)
        for name, (r, t) in limits.items()
    }
    return Teacher("t", endpoints, Prices(3.0, 5.0, "2026-01-01"), **options)


def test_dollars_are_tokens_by_price_and_a_batch_is_half_of_them() -> None:
    requests = [Request("a", "", "x" * 400), Request("b", "y" * 40, "z" * 40)]  # 108 + 28 tokens
    teacher = asked({"one": (60, None)})
    now, batched = (plan(iter(requests), teacher, 200.0, batch=b) for b in (False, True))
    assert (now.requests, now.prompt_tokens, now.completion_tokens) == (2, 136, 400)
    assert now.dollars == pytest.approx((136 * 3 + 400 * 5) / 1e6)
    assert batched.dollars == now.batch_dollars == pytest.approx(now.dollars / 2)
    assert now.days == pytest.approx(2 / 60 / 24 / 60)
    assert batched.days is None and "24 hours" in plan_report(batched)


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(1, 10_000), st.none() | st.integers(1_000, 10_000_000)
        ).filter(any),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 10_000_000),
    st.integers(1, 4_000),
    st.floats(1.0, 4_000.0),
)
def test_no_endpoint_exceeds_a_limit_one_is_reached_and_all_end_together(
    limits: list[tuple[int | None, int | None]], number: int, prompt: int, completion: float
) -> None:
    teacher = asked({str(i): pair for i, pair in enumerate(limits)})
    made = plan(Counts(number, number * prompt), teacher, completion)
    assert made.days is not None and sum(e.share or 0 for e in made.endpoints) == pytest.approx(1)
    minutes = made.days * 24 * 60
    for (requests, tokens), one in zip(limits, made.endpoints, strict=True):
        assert one.share is not None
        answered = one.share * number
        use = {
            "requests/min": answered / minutes / (requests or math.inf),
            "tokens/min": answered * (prompt + completion) / minutes / (tokens or math.inf),
        }
        assert max(use.values()) == pytest.approx(1)
        assert use[str(one.binds)] == pytest.approx(1)


def test_twice_the_endpoints_take_half_the_time_and_cost_the_same() -> None:
    counts = Counts(1000, 300_000)
    one = plan(counts, asked({"a": (300, 120_000)}), 300)
    two = plan(counts, asked({"a": (300, 120_000), "b": (300, 120_000)}), 300)
    assert one.days and two.days == pytest.approx(one.days / 2)
    assert one.dollars == two.dollars


def test_time_is_unknown_and_not_zero_where_an_endpoint_has_no_limit() -> None:
    made = plan(Counts(10, 1000), asked({"fast": (None, None), "slow": (60, None)}), 100)
    assert made.days is None and [e.share for e in made.endpoints] == [None, None]
    text = plan_report(made)
    assert "time: unknown: no limit is given for fast (requests_per_minute" in text
    assert "days" not in text and "hours" not in text


def test_the_report_names_the_assumption_the_price_date_and_each_limit() -> None:
    teacher = asked({"east": (18, 10_000), "west": (9, None)})
    text = plan_report(plan(Counts(1_000_000, 342_000_000), teacher, 418))
    assert "teacher.expected_completion_tokens" in text and "prices of 2026-01-01" in text
    east, west = text.splitlines()[-2:]
    assert east.split() == ["east", "59%", "13.2", "tokens/min", "146", "s", "(concurrency)"]
    assert west.split()[:4] == ["west", "41%", "9.0", "requests/min"]


def test_nothing_to_ask_costs_nothing() -> None:
    made = plan([], asked({"a": (60, 1000)}), 100)
    assert (made.requests, made.dollars, made.days) == (0, 0.0, 0.0)
    assert "requests: 0;" in plan_report(made)


@pytest.mark.parametrize(
    ("limits", "options", "length", "message"),
    [
        ({}, {}, 10.0, "teacher.endpoints is empty"),
        ({"a": (0, None)}, {}, 10.0, "teacher.endpoints.a.requests_per_minute=0"),
        ({"a": (1, -5)}, {}, 10.0, "teacher.endpoints.a.tokens_per_minute=-5"),
        ({"a": (1, 1)}, {}, 0.0, "expected_completion_tokens=0.0: a positive number"),
        ({"a": (1, 1)}, {}, math.nan, "expected_completion_tokens=nan"),
        ({"a": (1, 1)}, {"settings": {"max_tokens": 9}}, 10.0, "=10 is more than the 9 that"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(
    limits: dict[str, tuple[int | None, int | None]],
    options: dict[str, Any],
    length: float,
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        plan(Counts(1, 1), asked(limits, **options), length)


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_is_built_and_holds_no_key(name: str) -> None:
    teacher = configured(name)
    assert (teacher.body["temperature"], teacher.body["top_p"]) == (0.7, 0.95)
    assert [e.key_variable for e in teacher.endpoints.values()] == [
        None if name == "local" else "OPENAI_API_KEY"
    ]
    made = plan(Counts(10, 1000), teacher, teacher.expected_completion_tokens)
    assert (made.dollars == 0) == (name == "local")
    assert (made.days is not None) == name.endswith("_2023")


def test_the_page_s_file_of_endpoints_adds_to_what_it_inherits(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "mine.yaml").write_text(text)
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{tmp_path}]"
        config = compose("collect", [search, "teacher=mine", "queries=x"])
    check_config(config, list(config))
    mine: Teacher = instantiate(config.teacher, _convert_="all")
    gpt4 = configured("gpt4")
    own = {"requests_per_minute": 5000, "tokens_per_minute": 2_000_000, "concurrency": 400}
    assert mine.endpoints["openai"] == replace(gpt4.endpoints["openai"], **own)
    assert (mine.endpoints["east"].kind, mine.endpoints["east"].model) == ("azure", "my-deployment")
    assert mine == replace(gpt4, endpoints=mine.endpoints), "all else is inherited"


def test_a_local_teacher_needs_the_name_of_its_model() -> None:
    with pytest.raises(UserError, match=r"teacher\.endpoints\.local\.model is needed"):
        check_config(composed("local"), ["teacher"])


def test_the_2023_teachers_are_table_4() -> None:
    chatgpt, gpt4 = configured("chatgpt_2023"), configured("gpt4_2023")
    assert (chatgpt.prices.prompt, chatgpt.prices.completion) == (2, 2)
    assert (gpt4.prices.prompt, gpt4.prices.completion) == (30, 60)
    limits = [
        (e.requests_per_minute, e.tokens_per_minute)
        for t in (chatgpt, gpt4)
        for e in t.endpoints.values()
    ]
    assert limits == [(300, 120_000), (18, 10_000)]


# What follows computes docs/collection.md. Lengths are those that conf/train.yaml plans training
# with: 620 and 760 tokens an example, of which 45 % and 55 % are answers.


def lengths(part: str) -> tuple[int, float, float]:
    """Requests, and the mean tokens of prompt and answer, of a part of the training data."""
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        assumed = compose("train").planning.parts[part]
    answer = assumed.tokens_per_example * assumed.target_share
    return assumed.examples, assumed.tokens_per_example - answer, answer


def at_scale(teacher: Teacher, endpoints: int = 1, tokens: float | None = None) -> Plan:
    """The paper's number of requests for this teacher, to so many endpoints like its own; with
    ``tokens``, of another mean length in the same proportion."""
    requests, prompt, answer = lengths(teacher.name)
    scale = tokens / (prompt + answer) if tokens else 1.0
    (one,) = teacher.endpoints.values()
    teacher = replace(teacher, endpoints={str(i): one for i in range(endpoints)})
    return plan(Counts(requests, round(requests * prompt * scale)), teacher, answer * scale)


def days(made: Plan) -> float:
    assert made.days is not None
    return made.days


def table(*rows: Sequence[str]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def paper_table() -> str:
    weeks = {"chatgpt": 2, "gpt4": 3}
    teachers = [configured("chatgpt_2023"), configured("gpt4_2023")]
    plans = [at_scale(t) for t in teachers]

    def row(name: str, *cells: str) -> tuple[str, ...]:
        return (name, *cells)

    return table(
        row("", *(f"{t.name}_2023" for t in teachers)),
        row("requests", *(f"{p.requests:,}" for p in plans)),
        row(
            "tokens a request: prompt + answer (assumed)",
            *(
                f"{p.prompt_tokens / p.requests:.0f} + {p.completion_tokens / p.requests:.0f}"
                for p in plans
            ),
        ),
        row("dollars", *(f"{p.dollars:,.0f}" for p in plans)),
        row("limit that binds", *(str(p.endpoints[0].binds) for p in plans)),
        row("requests/min of one endpoint", *(f"{p.endpoints[0].per_minute:.1f}" for p in plans)),
        *(
            row(
                f"days, {n} endpoint{'s' if n > 1 else ''}",
                *(f"{days(at_scale(t, n)):.1f}" for t in teachers),
            )
            for n in (1, 2, 3, 4)
        ),
        row(
            "endpoints that the paper's time implies",
            *(f"{days(p) / 7 / weeks[p.teacher]:.2f} ({weeks[p.teacher]} weeks)" for p in plans),
        ),
    )


def length_table() -> str:
    rows = [["tokens a request", "chatgpt_2023: binds", "days", "gpt4_2023: binds", "days"]]
    for tokens in (200, 400, 426, 556, 620, 760, 1000, 1500):
        made = [at_scale(configured(f"{t}_2023"), tokens=tokens) for t in ("chatgpt", "gpt4")]
        cells = [c for p in made for c in (str(p.endpoints[0].binds), f"{days(p):.1f}")]
        rows.append([f"{tokens:,}", *cells])
    return table(*rows)


TODAY = {  # model, teacher in whose place, prices of a million tokens where conf/teacher has others
    "gpt-4.1-mini": ("chatgpt", Prices(0.4, 1.6, "2026-09-26")),
    "gpt-6-luna": ("chatgpt", None),
    "gpt-4.1": ("gpt4", Prices(2.0, 8.0, "2026-06-21")),
    "gpt-6.1-terra": ("gpt4", None),
    "gpt-6-sol": ("gpt4", Prices(2.0, 10.0, "2026-09-22")),
}


def today_table() -> str:
    rows = [("model", "in the place of", "$ a million", "prices of", "dollars", "as batches")]
    for model, (name, prices) in TODAY.items():
        teacher = configured(name)
        teacher = replace(teacher, prices=prices or teacher.prices)
        if prices is None:
            (endpoint,) = teacher.endpoints.values()
            assert endpoint.model == model
        made = at_scale(teacher)
        rows.append(
            (
                f"`{model}`",
                f"{name}, {made.requests / 1e6:.0f} M",
                f"{teacher.prices.prompt:.2f} / {teacher.prices.completion:.2f}",
                teacher.prices.date,
                f"{made.dollars:,.0f}",
                f"{made.batch_dollars:,.0f}",
            )
        )
    return table(*rows)


@pytest.mark.parametrize("computed", [paper_table, length_table, today_table])
def test_a_table_of_the_page_is_what_plans_say(computed: Callable[[], str]) -> None:
    text = computed()
    assert text in PAGE, f"docs/collection.md should have:\n{text}"


@pytest.mark.parametrize(("name", "part"), [("chatgpt", "chatgpt"), ("gpt4", "gpt4")])
def test_configured_lengths_are_those_of_training_plans(name: str, part: str) -> None:
    """They are written out in conf/teacher, which cannot read conf/train.yaml."""
    _, _, answer = lengths(part)
    for option in (name, f"{name}_2023"):
        assert configured(option).expected_completion_tokens == pytest.approx(answer)
    default = asked({"a": (1, 1)}).expected_completion_tokens
    assert default == pytest.approx(lengths("chatgpt")[2])


def test_the_figures_in_the_page_s_sentences_are_what_plans_say() -> None:
    chatgpt, gpt4 = configured("chatgpt_2023"), configured("gpt4_2023")
    total = at_scale(chatgpt).dollars + at_scale(gpt4).dollars
    answers = lengths("gpt4")[2] / lengths("chatgpt")[2]
    quota = Endpoint("http://x", "m", requests_per_minute=5_000, tokens_per_minute=5_000_000)
    azure = [at_scale(replace(configured(t), endpoints={"a": quota})) for t in ("chatgpt", "gpt4")]
    seconds = at_scale(chatgpt).endpoints[0].latency
    rate = at_scale(chatgpt).endpoints[0].per_minute
    (under_way,) = {endpoint.concurrency for endpoint in chatgpt.endpoints.values()}
    now = sum(at_scale(configured(t)).dollars for t in ("chatgpt", "gpt4"))
    for sentence in (
        f"${total:,.0f} for both, {at_scale(gpt4).dollars / total * 100:.0f} % of it GPT-4's",
        f"{rate:.0f} requests a minute need {under_way} in flight",
        f"{answers:.2f} times",
        f"{120_000 / 300:.0f} tokens a request",
        f"{10_000 / 18:.0f} of GPT-4",
        f"{days(azure[0]) * 24:.1f} hours for 5 M and {days(azure[1]) * 24:.1f} hours for 1 M",
        f"{seconds:.0f} seconds",
        f"${now:,.0f} for both of `conf/teacher`, {now / total * 100:.0f} % of the paper's",
    ):
        assert sentence in " ".join(PAGE.split()), sentence
