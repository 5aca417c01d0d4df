"""The report as a person sees it: opened in a real browser, from synthetic answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca.evaluation.item import Item, Sample
from orca.evaluation.open_ended_tables import Judged, open_ended_table
from orca.evaluation.page import BESIDE, save_results
from orca.evaluation.paper import AGIEVAL, BBH
from orca.evaluation.protocol import Protocol
from orca.evaluation.results import Results, build_results
from orca.evaluation.scores import AVERAGE
from orca.evaluation.toxicity import toxicity, toxicity_table

MESSAGES = (1, 5, 2)
HIDDEN = "a sentence of ToxiGen"


def make_results() -> Results:
    """Three system messages, two draws, judged and toxicity tables: all that a page can have."""
    rng = np.random.default_rng(0)
    tasks = {"agieval": list(AGIEVAL.tasks), "bbh": list(BBH.tasks), "truthfulqa": ["truthfulqa"]}
    items = {
        name: [
            Item(f"{name}/{task}/{i}", name, task, f"<b>{i}</b>?", tuple("ABCD"), gold=("A",))
            for task in own
            for i in range(4)
        ]
        for name, own in tasks.items()
    }
    samples = [
        Sample(
            i.id, i.benchmark, i.task, draw, draw, message, i.prompt, "An <i>answer</i> " * 50,
            "stop", i.gold, label := str(rng.choice(["A", "B", ""])), label,
        )
        for message in MESSAGES for own in items.values() for i in own for draw in range(2)
    ]  # fmt: skip
    protocol = Protocol("orca", draws=2)
    facts = {"model": {"engine": "none", "model": "synthetic"}, "data bbh": "0"}
    facts["protocol"] = dataclasses.asdict(protocol)
    results = build_results("a run", facts, protocol, items, samples)
    results.about = {"asked": "everything", "date": "2026-11-22"}
    heads = list(results.scores["bbh"])
    results.judged = {
        head: [
            Judged(name, "ChatGPT", rng.uniform(4, 9, (20, 2))) for name in ("vicuna", "awesome")
        ]
        for head in heads
    }
    results.tables.append(open_ended_table(results.judged))
    people = [
        (setting, group, i) for setting in ("hate", "neutral") for group in "ab" for i in "12"
    ]
    texts = [
        Sample(f"{s}{g}{i}", "toxigen", s, 0, 0, 1, HIDDEN, HIDDEN, "stop") for s, g, i in people
    ]
    groups = {sample.item: group for sample, (_, group, _) in zip(texts, people, strict=True)}
    chances = {(sample.item, 1, 0): 0.2 for sample in texts}
    results.toxicity = {heads[0]: toxicity(texts, groups, chances)}
    facts = {"model": "c", "tokenizer": "c", "toxic_label": "toxic", "max_tokens": 512}
    results.tables.append(
        toxicity_table(heads[0], results.toxicity[heads[0]], facts, "0 of all 8 answers")
    )
    return results


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results()


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    save_results(results, directory)
    return directory


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The page at 1280 pixels, with what it asked for and complained of."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.heard = []
    page.on("console", lambda message: page.heard.append(message.text))
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((report / "report.html").as_uri())
    yield page
    page.close()


def test_it_loads_nothing_and_has_no_errors(page: Any, report: Path) -> None:
    assert page.asked == [(report / "report.html").as_uri()]
    assert page.heard == []
    assert page.title() == "a run: evaluation"
    assert "synthetic" in page.locator("dl").inner_text()
    assert page.locator("b:text('0?')").count() == 0, "text of others is no markup"
    assert HIDDEN not in page.content()


def test_every_table_is_there_with_every_cell(page: Any, results: Results, report: Path) -> None:
    found = page.evaluate(
        """[...document.querySelectorAll("table")].map(table => [...table.rows].map(
             row => [...row.cells].map(cell => cell.textContent.trim())))"""
    )
    wanted = [*results.tables, *results.details]
    assert found == [[list(one.head), *one.texts()] for one in wanted]
    assert len(found) == 1 + 3 + 2 + 9
    scores = json.loads((report / "report.json").read_text())["scores"]
    rows = {(table[0][-1], row[0]) for table in found for row in table}
    for benchmark, paper in (("agieval", AGIEVAL), ("bbh", BBH)):
        for own in scores[benchmark].values():
            assert len(own) == len(paper.tasks) + 1
            for score in own:
                name = paper.tasks.get(score["task"], AVERAGE)
                assert ("no statement found", name) in rows
    assert found[0][1][0] == "agieval", "averages come first"


def test_bars_marks_and_intervals_are_where_the_scores_are(page: Any, results: Results) -> None:
    """Measured on the screen, in per cent of the track's width."""
    charts = page.evaluate(
        """[...document.querySelectorAll("[data-benchmark]")].map(chart => [
             chart.dataset.benchmark,
             [...chart.querySelectorAll(".track")].map(track => {
               const box = track.getBoundingClientRect();
               const share = x => 100 * (x - box.left) / box.width;
               const ends = e => { const r = e.getBoundingClientRect();
                                   return [share(r.left), share(r.right)]; };
               return [...track.querySelectorAll(".bar")].map(
                 bar => [...ends(bar.children[0]), ...ends(bar.children[1])]
               ).concat([...track.querySelectorAll(".mark")].map(
                 mark => [ends(mark).reduce((a, b) => a + b) / 2]));
             })])"""
    )
    assert [name for name, _ in charts] == ["agieval", "bbh", "truthfulqa"]
    for benchmark, tracks in charts:
        runs = list(results.scores[benchmark].values())
        paper = {"agieval": AGIEVAL, "bbh": BBH}.get(benchmark)
        scores = [one for one in runs[0] if paper or one.task != AVERAGE]
        assert len(tracks) == len(scores)
        for place, (score, track) in enumerate(zip(scores, tracks, strict=True)):
            for run, bar in zip(runs, track[: len(runs)], strict=True):
                own = run[place].accuracy.times(100)
                assert bar == pytest.approx([0, own.value, own.low, own.high], abs=0.25)
            cells = [100 * score.chance]
            if paper:
                average = score.task == AVERAGE
                cells += [
                    paper.averages[m] if average else paper.cell(m, score.task) for m in BESIDE
                ]
            assert [mark for (mark,) in track[len(runs) :]] == pytest.approx(cells, abs=0.25)


def test_the_radar_has_a_corner_for_each_task_where_the_score_is(
    page: Any, results: Results
) -> None:
    for benchmark, paper in (("agieval", AGIEVAL), ("bbh", BBH)):
        radar = page.locator(f"[data-benchmark={benchmark}] svg")
        polygons = radar.locator("polygon").evaluate_all(
            """all => all.map(one => [one.textContent,
                 [...one.points].map(point => Math.hypot(point.x, point.y))])"""
        )
        assert len(polygons) == len(BESIDE) + len(MESSAGES)
        assert radar.locator("line").count() == len(paper.tasks)
        circle = max(float(r) for r in radar.locator("circle").evaluate_all(
            "all => all.map(one => one.r.baseVal.value)"))  # fmt: skip
        for name, lengths in polygons:
            scores = results.scores[benchmark].get(name)
            values = (
                paper.columns[name]
                if scores is None
                else [100 * one.accuracy.value for one in scores[:-1]]
            )
            assert [100 * one / circle for one in lengths] == pytest.approx(values, abs=0.1)
    assert page.locator("[data-benchmark=truthfulqa] svg").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone_only_tables_scroll(browser: Any, report: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 420, "height": 900}, color_scheme=scheme)
    page.goto((report / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    seen, outside = page.evaluate(
        """(() => { const all = [...document.body.querySelectorAll("*")]
               .filter(one => !one.closest("table") && one.checkVisibility());
             const over = all.filter(one => { const r = one.getBoundingClientRect();
               return r.right > innerWidth + 0.5 || r.left < -0.5; });
             return [all.length, over.map(one => one.outerHTML.slice(0, 80))]; })()"""
    )
    assert seen > 500 and outside == []
    assert page.evaluate("document.documentElement.scrollWidth") == 420
    wide = page.locator(".scroll").evaluate_all(
        "all => all.filter(one => one.scrollWidth > one.clientWidth).length"
    )
    assert wide > 5, "tables are wider than a telephone, and scroll"
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    page.close()


def brightness(colour: str) -> float:
    """Of ``rgb(r, g, b)``."""
    return sum(float(part) for part in colour.strip("rgba()").split(",")[:3])
