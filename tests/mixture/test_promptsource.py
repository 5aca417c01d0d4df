"""promptsource templates over raw rows: real sets, the rules of rendering, data that looks like
Jinja, what is refused."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.mixture.promptsource import Promptsource, RawSet, read_templates


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real() -> Promptsource:
    """The 13 sets as they are configured."""
    return instantiate(OmegaConf.load(CONF_DIR / "mixture/source/flan2021_raw.yaml"))


def candidates(source: Promptsource, root: Path) -> list[dict[str, Any]]:
    return [row for file in source.open(str(root)) for row in pq.read_table(file.path).to_pylist()]


def write_set(
    root: Path, rows: list[Any], jinja: str, choices: str | None = None, **metadata: Any
) -> RawSet:
    entry = {"name": "ask", "jinja": jinja, "answer_choices": choices}
    entry["metadata"] = {"languages": ["en"], "choices_in_prompt": None} | metadata
    text = yaml.safe_dump({"dataset": "d", "templates": {"some-id": entry}})
    (root / "templates.yaml").write_text(text, encoding="utf-8")
    lines = (json.dumps(row) + "\n" for row in rows)
    (root / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return RawSet("rows.jsonl", "templates.yaml")


def render(root: Path, rows: list[Any], jinja: str, *choices: str) -> list[dict[str, Any]]:
    return candidates(Promptsource({"d": write_set(root, rows, jinja, *choices)}), root)


def test_every_template_of_the_real_collection_can_be_used(shared_data: Path) -> None:
    files = sorted((shared_data / "promptsource").rglob("templates.yaml"))
    assert len(files) == 72
    templates = [template for file in files for template in read_templates(file)]
    assert len(templates) == 616
    kinds = Counter(template.template_type for template in templates)
    assert kinds == {"zs_opt": 310, "zs_noopt": 306}


def test_the_13_sets_are_rendered_without_a_problem(real: Promptsource, shared_data: Path) -> None:
    found = candidates(real, shared_data)
    problems = [row["problem"] for row in found if row["problem"]]
    assert all(problem.startswith("not_suited: template ") for problem in problems)
    assert len(problems) == 240, "COPA's templates that ask for a cause or an effect alone"
    found = [row for row in found if not row["problem"]]
    assert len(real.datasets) == 13
    for task in real.datasets:
        assert {row["row"] for row in found if row["task"] == task} == set(range(1, 121))
    # 12 templates, 4 of which ask for a cause or an effect only: 10 a row
    assert sum(row["task"] == "COPA" for row in found) == 120 * 10
    assert len({(row["task"], row["template"], row["row"]) for row in found}) == len(found)


EXPECTED = [
    ("BoolQA", 1, "yes_no_question", "fruit? Yes or no?", "Yes"),
    ("CB", 1, "does it follow that", "clothes on Yes, no, or maybe?", "No"),
    ("COPA", 2, "best_option", "for  an effect", "Her friend cut off contact with her."),
    ("IMDB", 2, "Reviewer Enjoyment Yes No", "Did the reviewer enjoy the movie?", "Yes"),
    ("MNLI", 1, "should assume", 'before you speak." is true? Yes, no, or maybe?', "Maybe"),
    ("MultiRC", 2, "confirm", "Could you confirm? Yes or no?", "Yes"),
    ("QQP", 5, "duplicate", 'objective news sources?". Are they duplicates?', "yes"),
    ("RTE", 1, "can we infer", '"Humans existed 10,000 years ago."? Yes or no?', "Yes"),
    ("SST-2", 1, "Reviewer Opinion bad good choices", "this movie good or bad?", "bad"),
    ("WiC", 1, "same_sense", 'whether the word "call" is used in the same sense', "No"),
    ("agnews", 4, "which_section", "appear in?", "Sports"),
    ("amazon", 2, "format_star", "Title: Not witchcraft\nText: While there may", "1 star"),
    ("yelp", 1, "format_score", "Review score (between 1 and 5):", "3"),
]  # fmt: skip


def test_labels_of_the_13_sets_mean_what_the_templates_mean(
    real: Promptsource, shared_data: Path
) -> None:
    """Read by hand in the raw rows."""
    found = {
        (row["task"], row["row"], row["template"]): row for row in candidates(real, shared_data)
    }
    assert {task for task, *_ in EXPECTED} == set(real.datasets)
    for task, number, template, piece, answer in EXPECTED:
        row = found[task, number, template]
        assert piece in row["query"]
        assert row["targets"] == [answer], row


def test_one_template_gives_each_class_as_often_as_the_raw_rows(
    real: Promptsource, shared_data: Path
) -> None:
    stars = {"very negative": "1", "negative": "2", "neutral": "3", "positive": "4"}
    found = candidates(real, shared_data)
    for task, template, words in (
        ("yelp", "format_score", stars | {"very positive": "5"}),
        ("CB", "can we infer", {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"}),
        ("RTE", "GPT-3 style", {"entailment": "True", "contradiction": "False"}),
    ):
        lines = (
            (shared_data / f"flan2021_raw/{task}.jsonl").read_text(encoding="utf-8").splitlines()
        )
        wanted = Counter(words[json.loads(line)["label"]] for line in lines)
        got = [
            row["targets"][0] for row in found if (row["task"], row["template"]) == (task, template)
        ]
        assert Counter(got) == wanted
        assert len(wanted) == len(words)


def test_a_row_reads_as_written_by_hand(real: Promptsource, shared_data: Path) -> None:
    found = candidates(real, shared_data)
    (row,) = (r for r in found if (r["task"], r["row"], r["template"]) == ("WiC", 1, "polysemous"))
    assert row["query"] == (
        'The word "call" has multiple meanings. Does it have the same meaning in sentences 1 and '
        "2? Yes or no?\n\nSentence 1: After two raises there was a call.\n"
        "Sentence 2: The salesman's call on a customer."
    )
    assert (row["targets"], row["template_type"]) == (["No"], "zs_opt")


def test_rendering_twice_gives_the_same_bytes_whatever_the_global_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": str(number)} for number in range(200)]
    raw = write_set(tmp_path, rows, "{{ ['a', 'b', 'c'] | choice }} {{ text }}? ||| {{ text }}!")
    random.seed(1)
    (first,) = Promptsource({"d": raw}).open(str(tmp_path))
    monkeypatch.setenv("ORCA_CACHE", str(tmp_path / "other"))
    random.seed(2)
    (second,) = Promptsource({"d": raw}).open(str(tmp_path))
    assert first.path != second.path
    assert Path(first.path).read_bytes() == Path(second.path).read_bytes()
    drawn = Counter(row["query"][0] for row in pq.read_table(first.path).to_pylist())
    assert min(drawn[letter] for letter in "abc") > 40


MARKUP = st.text("{}%#|\\\"'-+ \nab").filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(MARKUP | st.sampled_from(["{{ 7 * 7 }}", "{% raw %}", "a ||| b", "{# no #}", "{{ text }}"]))
def test_data_is_never_read_as_a_template(tmp_path: Path, text: str) -> None:
    jinja = "<{{ text }}> <{{ parts[0] }}> or {{ answer_choices[1] }}? ||| ={{ answer_choices[0] }}"
    write_set(tmp_path, [], jinja, "{{ text }} ||| none")
    (template,) = read_templates(tmp_path / "templates.yaml")
    query, target = template.render({"text": text, "parts": [text]}, seed="")
    assert query == f"<{text}> <{text}> or none?"
    assert target == f"={text.strip()}"


def test_rows_are_rendered_again_with_changed_templates(tmp_path: Path) -> None:
    for text in ("one", "two"):
        raw = write_set(tmp_path, [{"a": "x"}], f"{text} {{{{ a }}}} ||| y")
        os.utime(tmp_path / "rows.jsonl", (1, 1))  # of the two files the templates alone change
        (row,) = candidates(Promptsource({"d": raw}), tmp_path)
        assert row["query"] == f"{text} x"


def test_an_empty_side_and_a_hidden_label_are_counted_and_no_candidate(tmp_path: Path) -> None:
    rows = [{"x": "a", "label": 1}, {"x": "b", "label": -1}, {"x": "", "label": 0}]
    jinja = "{% if x %}{{ x }} ||| {{ answer_choices[label] }}{% endif %}"
    row, *left_out = render(tmp_path, rows, jinja, "no ||| yes")
    assert (row["row"], row["targets"], row["template"]) == (1, ["yes"], "ask")
    assert [one["problem"] for one in left_out] == [
        "not_suited: the row has no label",
        "not_suited: template 'ask' gives no text for it",
    ]


def test_most_frequent_gives_all_that_tie(tmp_path: Path) -> None:
    jinja = "{{ votes | most_frequent | join('+') }} ||| {{ zip(votes, votes) | list | length }}"
    (row,) = render(tmp_path, [{"votes": ["b", "a", "c", "a", "b"]}], jinja)
    assert (row["query"], row["targets"]) == ("b+a", ["5"])


def test_a_row_that_does_not_fit_is_a_problem_with_its_number(tmp_path: Path) -> None:
    rows = [
        {"sentence": "Text: good", "label": "Good"},
        {"sentence": "good", "label": "Good"},
        {"sentence": "Text: good", "label": "Great"},
        {"sentence": "Text: good"},
        {"sentence": "Text: \ud800", "label": "Bad"},
        [],
    ]
    raw = write_set(tmp_path, rows, "{{ text }}? ||| {{ label }}")
    raw = RawSet(raw.files, raw.templates, "Text: (?P<text>.*)", ["Bad", "Good"])
    found = candidates(Promptsource({"d": raw}), tmp_path)
    assert (found[0]["query"], found[0]["targets"]) == ("good?", ["1"])
    assert [(row["row"], row["problem"].split(":")[0]) for row in found[1:]] == [
        (2, "no_match"),
        (3, "unknown_label"),
        (4, "missing_field"),
        (5, "invalid_unicode"),
        (6, "not_json"),
    ]
    assert {row["task"] for row in found} == {"d"}


@pytest.mark.parametrize(
    ("jinja", "problem"),
    [
        ("{{ other }} ||| a", "missing_field: template 'ask': 'other' is undefined"),
        ("{{ text.index('z') }} ||| a", "template_error: template 'ask' fails: ValueError"),
        ("{{ text }} ||| {{ answer_choices[2] }}", "missing_field: "),
    ],
)
def test_a_template_that_a_row_does_not_serve_is_a_problem(
    tmp_path: Path, jinja: str, problem: str
) -> None:
    (row,) = render(tmp_path, [{"text": "a"}], jinja, "x ||| y")
    assert row["problem"].startswith(problem)
    assert (row["row"], row["template"], row["query"]) == (1, "ask", None)


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ text | shout }} ||| a",
        "{{ text | random }} ||| a",
        "{{ lipsum() }} ||| a",
        "{{ open('x') }} ||| a",
        "{{ text",
        "no target",
        "{{ ''.__class__.__mro__ }} ||| a",
    ],
)
def test_a_template_that_is_broken_or_not_supported_is_refused_by_name(
    tmp_path: Path, jinja: str
) -> None:
    with pytest.raises(UserError, match=r"templates\.yaml: template 'ask': "):
        render(tmp_path, [{"text": "a"}], jinja)


def test_only_english_templates_are_used(tmp_path: Path) -> None:
    raw = write_set(tmp_path, [{"text": "a"}], "{{ text }} ||| a", languages=["fr"])
    with pytest.raises(UserError, match=r"no template has languages \[en\]"):
        Promptsource({"d": raw}).open(str(tmp_path))


def test_a_template_file_runs_no_code(tmp_path: Path) -> None:
    raw = write_set(tmp_path, [{"text": "a"}], "{{ text }} ||| a")
    (tmp_path / "templates.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="not YAML"):
        Promptsource({"d": raw}).open(str(tmp_path))


def test_labels_that_yaml_read_as_booleans_and_broken_patterns_are_refused() -> None:
    with pytest.raises(UserError, match="in quotes"):
        RawSet("a.jsonl", "t.yaml", labels=[False, True])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no regular expression"):
        RawSet("a.jsonl", "t.yaml", pattern="(?P<x")
