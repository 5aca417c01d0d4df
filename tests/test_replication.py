"""The study of the paper's claims decides nothing that items and seeds do not both say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import replication_answers
import replication_small
from conftest import compose_config
from omegaconf import OmegaConf
from replication_claims import CLAIMS, SEEDS, accuracies, claims_table, holm, over_seeds, verdict
from replication_small import BASE, grades

from orca.errors import UserError
from orca.evaluation import (
    Item,
    Protocol,
    Records,
    Sample,
    build_results,
    read_samples,
    save_results,
)
from orca.evaluation.comparison import compare
from orca.evaluation.statistics import Interval


def test_holm_is_that_of_r() -> None:
    """``p.adjust(p, "holm")`` of R."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, None, 0.6]) == [pytest.approx(1.0), None, pytest.approx(1.0)]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("over_items", "p_value", "over_seeds", "costs_nothing", "expected"),
    [
        ((5, 9, 13), 0.001, (4, 9, 14), False, "holds"),
        ((5, 9, 13), 0.06, (4, 9, 14), False, "cannot tell"),
        ((5, 9, 13), None, (4, 9, 14), False, "cannot tell"),
        ((5, 9, 13), 0.001, (-1, 9, 19), False, "cannot tell"),
        ((-13, -9, -5), 0.001, (-14, -9, -4), False, "does not hold"),
        ((-13, -9, -5), 0.001, (-19, -9, 1), False, "cannot tell"),
        ((-4, -1, 2), None, (-4, -1, 2), True, "holds"),
        ((5, 9, 13), None, (4, 9, 14), True, "holds"),
        ((-6, -2, 2), None, (-4, -2, 0), True, "cannot tell"),
        ((-4, -1, 2), None, (-6, -1, 4), True, "cannot tell"),
        ((-4, -3, -2), None, (-4, -3, -2), True, "holds"),
        ((-13, -9, -6), None, (-12, -9, -6), True, "does not hold"),
        ((-13, -9, -6), None, (-14, -9, -4), True, "cannot tell"),
    ],
)
def test_a_claim_is_decided_where_items_and_seeds_leave_no_doubt(
    over_items: tuple[float, float, float],
    p_value: float | None,
    over_seeds: tuple[float, float, float],
    costs_nothing: bool,
    expected: str,
) -> None:
    items, seeds = (Interval(value, low, high) for low, value, high in (over_items, over_seeds))
    assert verdict(items, p_value, seeds, costs_nothing) == expected


def test_the_interval_over_seeds_is_welchs() -> None:
    """scipy.stats.ttest_ind(…, equal_var=False).confidence_interval()."""
    found = over_seeds(np.array([51.2, 44.6, 40.8]), np.array([36.7, 37.1, 47.1]))
    assert (found.low, found.high) == pytest.approx((-7.494112, 17.960779), abs=1e-5)
    assert found.value == pytest.approx(5.233333, abs=1e-5)
    same = over_seeds(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    assert (same.low, same.value, same.high) == (-1.0, -1.0, -1.0)


@pytest.mark.parametrize("spreads", [(5.6, 5.6), (5.3, 0.8)])
def test_arms_that_do_not_differ_are_seldom_told_apart(spreads: tuple[float, float]) -> None:
    """Seeds as far apart as the study's, items with its standard error of 2.05 points."""
    rng, error, studies = np.random.default_rng(0), 2.05, 500
    by_items = decided = 0
    for _ in range(studies):
        first, second = (rng.normal(0, spread, 3) for spread in spreads)
        first += rng.normal(0, error)  # which questions were asked
        difference = float(first.mean() - second.mean())
        p_value = math.erfc(abs(difference) / error / math.sqrt(2))
        items = Interval(difference, difference - 1.96 * error, difference + 1.96 * error)
        by_items += p_value < 0.05
        decided += verdict(items, p_value, over_seeds(first, second)) != "cannot tell"
    assert by_items > 0.2 * studies and decided < 0.09 * studies


def answered(right: dict[str, list[list[bool]]]) -> dict[str, list]:
    """Graded answers of an arm: for each task and seed, which of its items are right."""
    samples = []
    for task, draws in right.items():
        for draw, own in enumerate(draws):
            for i, is_right in enumerate(own):
                answer = "7" if is_right else "8"
                samples.append(
                    Sample(
                        item=f"held_out/{task}/{i}", benchmark="held_out", task=task, draw=draw,
                        seed=draw, system_message=1, prompt="What?", text=answer,
                        finish_reason="stop", gold=("7",), first_capital=answer, stated=answer,
                    )
                )  # fmt: skip
    return grades(samples)


MANY, FEW = [True] * 30 + [False] * 10, [True] * 10 + [False] * 30


def test_a_claim_is_of_the_items_and_seeds_of_both_arms() -> None:
    arms = {
        "progressive": answered({"sums": [MANY, MANY, MANY], "gcd": [MANY, MANY, FEW]}),
        "mixed": answered({"sums": [FEW, FEW, FEW], "gcd": [FEW, FEW, FEW]}),
    }
    assert accuracies(arms["progressive"]["held_out"]).tolist() == [75.0, 75.0, 50.0]
    rows = {row[1]: row for row in claims_table(arms, "held_out").rows}
    assert len(rows) == len(CLAIMS)
    row = rows["progressive − mixed"]
    assert [row[2].value, row[3].value] == pytest.approx([100 * (50 + 50 + 25) / 300] * 2)
    assert row[3].low > 0 and row[-1] == "holds"
    alone = compare(arms["progressive"]["held_out"], arms["mixed"]["held_out"])[-1].p_value
    assert alone and row[4] == f"{10 * alone:.2g}", "of ten claims, nine of them not asked yet"


def test_an_arm_has_as_many_seeds_as_were_asked() -> None:
    """The third alone is one, and not three."""
    arms = {"mixed": answered({"sums": [[], [], MANY]}), "answers": answered({"sums": [MANY] * 2})}
    assert [row[-1] for row in replication_small.tables(arms, {})[0].rows[:2]] == [1, 2]


@pytest.mark.parametrize("seeds", [[], [MANY], [MANY, MANY]])
def test_a_claim_waits_until_all_seeds_of_both_arms_have_been_asked(seeds: list) -> None:
    own = answered({"sums": seeds}) if seeds else {}
    arms = {"progressive": own, "mixed": answered({"sums": [FEW, FEW, FEW]})}
    rows = {row[1]: row for row in claims_table(arms, "held_out").rows}
    assert rows["progressive − mixed"][-1] == "not asked yet"


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Path, Path, list[Path]]:
    """Where answers are kept, a run, and its evaluation as train.py and evaluate.py leave them."""
    run, evaluation = tmp_path / "arm=mixed,seed=2", tmp_path / "held_out"
    stage = run / "flan5m_chatgpt"
    stage.mkdir(parents=True)
    config = compose_config("model=tiny", run_dir=run)
    (stage / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    results = {
        "stage": stage.name, "held_out_loss": {"before": 2.0, "after": 1.0}, "steps": 4,
        "exact_answer": None, "tokens_per_second": 9.0,
        "target_tokens": 50, "seconds": 90.0, "handoff": {"weights": "abcdef"},
    }  # fmt: skip
    (stage / "results.json").write_text(json.dumps(results))
    machine = {"device": "cpu", "software": "torch", "commit": "c0ffee"}
    (stage / "machine.json").write_text(json.dumps(machine))
    items = [Item(f"held_out/sums/{i}", "held_out", "sums", "2+2?", gold=("4",)) for i in range(3)]
    protocol = Protocol("greedy", temperature=0.0, max_new_tokens=192)
    facts = {"model": {"model": "hf", "weights": "abcd"}, "protocol": {"max_new_tokens": 192}}
    records = Records(evaluation, facts)
    for item, first, stated, reason in zip(
        items, ("4", "5", ""), ("4", "4", ""), ("stop", "length", "failed"), strict=True
    ):
        records.add(
            Sample(
                item=item.id, benchmark="held_out", task="sums", draw=0, seed=0, system_message=1,
                prompt=item.prompt, text="the text", finish_reason=reason, gold=item.gold,
                first_capital=first, stated=stated,
            )
        )  # fmt: skip
    records.write()
    records.close()
    samples = records.read()
    results = build_results("mixed 2", facts, protocol, {"held_out": items}, samples, [])
    save_results(results, evaluation)
    return tmp_path / "kept", run, [evaluation]


def test_kept_answers_are_worth_what_the_answers_were(
    asked: tuple[Path, Path, list[Path]],
) -> None:
    kept, run, (evaluation,) = asked
    replication_answers.keep(kept, "mixed 2", [evaluation], run)
    replication_answers.keep(kept, f"{BASE} 1", [evaluation], None)
    arms = replication_answers.read(kept)
    assert list(arms) == [BASE, "mixed"]
    (own,), (given,) = (
        grades(samples)["held_out"] for samples in (arms["mixed"], read_samples(evaluation))
    )
    assert own.ids == given.ids and own.failed == given.failed == 1
    for name in ("correct", "stated", "unparsed", "unstated"):
        before, after = getattr(given, name), getattr(own, name)
        assert np.isnan(after[:, 0]).all(), "seed 1 has not been asked"
        np.testing.assert_array_equal(after[:, 1:], before)
    assert [one.finish_reason for one in arms["mixed"]] == ["stop", "length", "failed"]
    assert replication_answers.training_minutes(kept) == (1, 1.5)
    assert "2+2" not in (text := (kept / "answers.csv").read_text()) and "the text" not in text


def test_answers_of_other_weights_or_to_other_questions_are_refused(
    asked: tuple[Path, Path, list[Path]],
) -> None:
    """A model that was trained again keeps the answers of the one before."""
    kept, run, (evaluation,) = asked
    replication_answers.keep(kept, "mixed 2", [evaluation], run)
    before = {file.name: file.read_text() for file in kept.iterdir()}
    report = evaluation / "report.json"
    text = report.read_text()
    report.write_text(text.replace("192", "96"))
    with pytest.raises(UserError, match="was asked"):
        replication_answers.keep(kept, "mixed 2", [evaluation], run)
    report.write_text(text)
    results = run / "flan5m_chatgpt" / "results.json"
    results.write_text(results.read_text().replace("abcdef", "123456"))
    with pytest.raises(UserError, match="answers of other weights"):
        replication_answers.keep(kept, "mixed 2", [evaluation], run)
    assert {file.name: file.read_text() for file in kept.iterdir()} == before, "nothing is lost"


def test_the_page_says_what_the_published_answers_say() -> None:
    """Its accuracies, differences and verdicts; p-values are of more arms than are published."""
    page = (replication_small.ROOT / "docs" / "replication.md").read_text().replace("−", "-")
    published = replication_small.ROOT / "benchmarks" / "results" / "replication_small"
    answers, chance = replication_answers.read(published), replication_answers.chances(published)
    arms = replication_small.graded_arms(answers)
    accuracy = replication_small.tables(arms, chance)[0]
    checked = 0
    for row in accuracy.rows:
        cells = dict(zip(accuracy.head, row, strict=True))
        if cells["arm"] == BASE or cells["seeds"] == SEEDS:
            line = next(one for one in page.splitlines() if one.startswith(f"| {on_page(row)} |"))
            for benchmark in ("held_out", "bbh", "agieval"):
                assert shown(cells[benchmark]) in line
                checked += 1
    for claim, row in zip(CLAIMS, claims_table(arms, "held_out").rows, strict=True):
        if row[-1] != "not asked yet":
            said = f"| {shown(row[2])} | {shown(row[3]).split(' ', 1)[1]} |"
            (line,) = (one for one in page.splitlines() if said in one)
            assert f"**{row[-1]}**" in line, claim
            checked += 1
    assert checked >= 10
    cut = {row[0]: row[1:] for row in replication_small.cut_table(answers).rows}
    assert [round(share) for share in cut["no_system_message"][:2]] == [35, 26]
    assert "26 % of\n  its BBH answers and 35 % of its AGIEval answers" in page


def on_page(row: tuple) -> str:
    return BASE if row[0] == BASE else f"`{row[0]}`"


def shown(value: Interval) -> str:
    return f"{value.value:.1f} [{value.low:.1f}, {value.high:.1f}]"


def test_nothing_asked_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ask"):
        replication_answers.read(tmp_path)


def test_a_model_that_is_not_there_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication_small, "RUNS", tmp_path)
    with pytest.raises(UserError, match=f"'mixed 2' is none of the finished models {BASE} 1"):
        replication_small.ask(["mixed 2"])
