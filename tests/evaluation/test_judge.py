"""The judge is asked with the right texts in the right order, once, and only its scores count."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orca.errors import UserError
from orca.evaluation import Item, Records, Sample
from orca.evaluation.judge import judge, judge_prompt, judged, read_references, review_table
from orca.evaluation.open_ended_tables import open_ended_table
from orca.evaluation.openai_engine import OpenAIEngine
from orca.evaluation.reviews import read_reviews
from orca.teacher import Endpoint, Prices, Teacher

SERVER = Path(__file__).with_name("judge_server.py")
GROUPS = {1: "generic", 2: "generic", 3: "math", 4: "coding", 5: "generic"}
ITEMS = [
    Item(f"vicuna/{n}", "vicuna", "vicuna", f"Question {n} {{braces}}?", group=group)
    for n, group in GROUPS.items()
]
REFERENCES = {item.id: f"reference of {item.id}" for item in ITEMS}


def sample(item: Item, draw: int = 0, **values: Any) -> Sample:
    text = f"candidate of {item.id}, draw {draw}"
    given = {"text": text, "finish_reason": "stop", **values}
    return Sample(item.id, "vicuna", "vicuna", draw, draw, 1, item.prompt, **given)


SAMPLES = [sample(item) for item in ITEMS]


@dataclass
class Judge:
    engine: OpenAIEngine
    log: Path
    address: str

    def asked(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Judge]]:
    processes = []

    def run(planted: dict[str, Any] | None = None, model: str = "m", attempts: int = 1) -> Judge:
        number = len(processes)
        file, log = tmp_path / f"planted_{number}.json", tmp_path / f"log_{number}.jsonl"
        file.write_text(json.dumps(planted or {}))
        command = [sys.executable, str(SERVER), str(file), str(log)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        address = f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        teacher = Teacher(
            "judge", {"e": Endpoint(address, model)}, Prices(1.0, 1.0, "none"), attempts=attempts
        )
        return Judge(OpenAIEngine(teacher, str(tmp_path / "requests")), log, address)

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_what_is_asked_is_fastchats_prompt_with_the_reference_first(
    start: Callable[..., Judge], tmp_path: Path
) -> None:
    server = start()
    judge(server.engine, SAMPLES, REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    asked = {body["messages"][1]["content"]: body for body in server.asked()}
    assert set(asked) == {
        judge_prompt(item, REFERENCES[item.id], one.text)
        for item, one in zip(ITEMS, SAMPLES, strict=True)
    }
    for text, body in asked.items():
        assert (body["temperature"], body["max_completion_tokens"]) == (0.2, 1024)
        assert body["messages"][0]["role"] == "system"
        assert body["messages"][0]["content"].startswith("You are a helpful and precise assistant")
        assert text.index("Assistant 1's Answer]\nreference of") < text.index(
            "Assistant 2's Answer]\ncandidate of"
        )
        assert ("Python tuple" in text) == ("Question 3 {braces}" in text)
        assert ("coding abilities" in text) == ("Question 4 {braces}" in text)


def test_scores_belong_to_the_right_model_and_unread_reviews_to_none(
    start: Callable[..., Judge], tmp_path: Path
) -> None:
    server = start(
        {
            "Question 1": "8 6\nGood.",
            "Question 2": "I cannot judge this.",
            "Question 3": "x = 10.\n\nScores:\nAssistant 1: 10\nAssistant 2: 4",
            "Question 4": 400,
            "Question 5": "5 9",
        }
    )
    reviews = judge(server.engine, SAMPLES, REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    assert read_reviews(tmp_path / "r.parquet") == reviews
    found = {one.item: (one.candidate, one.reference) for one in reviews}
    assert found["vicuna/1"] == (6, 8)
    assert found["vicuna/3"] == (4, 10)
    assert found["vicuna/2"] == found["vicuna/4"] == (None, None)
    (result,) = judged(reviews, "ChatGPT")
    assert (result.unparsed, result.failed) == (1, 1)
    assert result.scores.tolist() == [[6, 8], [4, 10], [9, 5]]
    table = open_ended_table({"new": [result]})
    assert table.rows[0][:4] == ("vicuna", "ChatGPT", 92.0, 101.5)
    assert table.texts()[0][5].startswith("82.6 [")  # 19 of 23
    rows = {row[0]: row[1:] for row in review_table("new", "ChatGPT", reviews).rows}
    assert rows["all"][:3] + rows["all"][4:] == (3, 19.0, 23.0, 1, 1)
    assert rows["generic"][:3] + rows["generic"][4:] == (2, 15.0, 13.0, 1, 0)
    assert rows["coding"] == (0, 0.0, 0.0, None, 0, 1)


def test_with_both_orders_an_item_has_the_mean(start: Callable[..., Judge], tmp_path: Path) -> None:
    """A judge that always prefers the first by two to one finds both equal; one unread order
    takes the item out."""
    first = "[The Start of Assistant 1's Answer]\ncandidate of vicuna/2"
    server = start({first: "none"})
    reviews = judge(server.engine, SAMPLES, REFERENCES, ITEMS, True, tmp_path / "r.parquet")
    (result,) = judged(reviews, "ChatGPT")
    assert len(server.asked()) == len(reviews) == 10
    assert {(one.order, one.candidate) for one in reviews if one.item == "vicuna/1"} == {
        ("reference_first", 4),
        ("candidate_first", 8),
    }
    assert result.scores.tolist() == [[6, 6]] * 4
    assert result.unparsed == 1


def test_a_second_run_asks_nothing_again(start: Callable[..., Judge], tmp_path: Path) -> None:
    server = start({"Question 2": "unread"})
    arguments = (SAMPLES, REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    first = judge(server.engine, *arguments)
    assert len(server.asked()) == 5
    assert judge(server.engine, *arguments) == first
    assert len(server.asked()) == 5


def test_what_failed_is_asked_again(start: Callable[..., Judge], tmp_path: Path) -> None:
    server = start({"Question 4": [400, "7 7"]})
    arguments = (SAMPLES, REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    (before,) = judged(judge(server.engine, *arguments), "ChatGPT")
    (after,) = judged(judge(server.engine, *arguments), "ChatGPT")
    assert (before.failed, len(before.scores)) == (1, 4)
    assert (after.failed, len(after.scores)) == (0, 5)
    assert len(server.asked()) == 6


def test_another_answer_or_judge_is_reviewed_anew(
    start: Callable[..., Judge], tmp_path: Path
) -> None:
    server = start()
    arguments = (REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    judge(server.engine, SAMPLES, *arguments)
    judge(server.engine, [sample(ITEMS[0], text="other"), *SAMPLES[1:]], *arguments)
    assert len(server.asked()) == 6
    other = start(model="m-2")
    assert {one.judge for one in judge(other.engine, SAMPLES, *arguments)} == {"m-2"}
    assert len(other.asked()) == 5


def test_draws_of_an_item_count_as_one(start: Callable[..., Judge], tmp_path: Path) -> None:
    server = start({"draw 1": "8 10"})
    samples = [*SAMPLES[:1], sample(ITEMS[0], 1), sample(ITEMS[0], 2, finish_reason="failed")]
    reviews = judge(server.engine, samples, REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    (result,) = judged(reviews, "ChatGPT")
    assert result.scores.tolist() == [[7, 8]]


def test_no_review_is_an_error_and_not_a_score(start: Callable[..., Judge], tmp_path: Path) -> None:
    server = start({"Question": 400})
    arguments = (REFERENCES, ITEMS, False, tmp_path / "r.parquet")
    with pytest.raises(UserError, match="every request to the judge failed"):
        judge(server.engine, SAMPLES, *arguments)
    failed = [sample(item, finish_reason="failed") for item in ITEMS]
    with pytest.raises(UserError, match="no answer to be judged"):
        judge(server.engine, failed, *arguments)
    unread = start({"Question": "I would rather not."})
    reviews = judge(unread.engine, SAMPLES, *arguments)
    with pytest.raises(UserError, match="no item of vicuna has scores: 5 of 5 reviews"):
        judged(reviews, "ChatGPT")


def test_references_are_those_of_a_run_or_of_fastchat(tmp_path: Path) -> None:
    records = Records(tmp_path / "run", {})
    for one in (sample(ITEMS[0], 1), sample(ITEMS[0]), sample(ITEMS[1])):
        records.add(one)
    records.write()
    found = read_references(tmp_path / "run", ITEMS[:2])
    assert found["vicuna/1"] == "candidate of vicuna/1, draw 0"
    changed = dataclasses.replace(ITEMS[0], prompt="Another question under this id.")
    with pytest.raises(UserError, match="answered another question as vicuna/1"):
        read_references(tmp_path / "run", [changed, ITEMS[1]])
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question_id": 1, "text": "theirs"}\n')
    assert read_references(file, ITEMS[:1]) == {"vicuna/1": "theirs"}
    with pytest.raises(UserError, match="no answer to 1 of 2 items, as vicuna/2"):
        read_references(file, ITEMS[:2])
    with pytest.raises(UserError, match="neither a directory"):
        read_references(tmp_path / "none", ITEMS)


def test_real_answers_are_references(shared_data: Path) -> None:
    from orca.evaluation.open_ended import Vicuna

    directory = shared_data / "vicuna" / "2023_eval" / "answer"
    items = Vicuna(str(shared_data)).items()
    files = sorted(directory.glob("*.jsonl"))
    assert len(files) == 7
    for file in files:
        assert len(read_references(file, items)) == 80


def test_the_program_answers_judges_and_reports(
    start: Callable[..., Judge], shared_data: Path, tmp_path: Path
) -> None:
    """Answers and reviews come from servers; without a reference nothing is scored, which is said;
    the second program asks for reviews alone, the third for nothing."""
    model, judging = start({"": "An answer."}), start({"": "8 9\nBecause."})
    command = [
        sys.executable, str(SERVER.parents[2] / "evaluate.py"), "model=m", "benchmark=[vicuna]",
        "fraction=0.05", "engine=openai", "teacher@judge.engine.teacher=local",
        f"engine.teacher.endpoints.local.base_url={model.address}",
        f"judge.engine.teacher.endpoints.local.base_url={judging.address}",
        "judge.engine.teacher.endpoints.local.model=j", f"out={tmp_path / 'out'}",
    ]  # fmt: skip
    reference = shared_data / "vicuna" / "2023_eval" / "answer" / "answer_gpt35.jsonl"
    judge_it = ["judge.reference_name=ChatGPT", f"judge.reference={reference}"]
    environment = {**os.environ, "ORCA_SHARED_DATA": str(shared_data)}

    def run(*options: str) -> str:
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "vicuna: answered and recorded, not scored" in run()
    assert (len(model.asked()), len(judging.asked())) == (4, 0)
    for _ in range(2):
        printed = run(*judge_it)
        assert "| vicuna | ChatGPT | 92.0 | 101.5 | 10.4 | 112.5 [112.5, 112.5] |" in printed
        assert (len(model.asked()), len(judging.asked())) == (4, 4)
    (found,) = json.loads((tmp_path / "out" / "report.json").read_text())["judged"]["m (orca)"]
    assert (found["total"], found["reference_total"], found["items"]) == (36, 32, 4)
    assert "m (orca) beside ChatGPT on vicuna" in (tmp_path / "out" / "report.html").read_text()
    assert len(read_reviews(tmp_path / "out" / "reviews.parquet")) == 4
