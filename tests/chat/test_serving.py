"""What ``transformers serve`` feeds a student is what training fed it: a real server answers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from chat_students import write_student
from conftest import CHATML_TEMPLATE, ORCA_TEMPLATE

from orca.chat import Conversation, LocalModel, Turn
from orca.chat.server import ServedModel
from orca.errors import UserError
from orca.stream import Encoder
from orca.teacher import Endpoint
from orca.traces import SYSTEM_MESSAGES, Template, Trace

START = 120.0  # seconds
MOST_TOKENS = 24
OWN_MESSAGE = (
    "{% if messages[0]['role'] != 'system' %}{{ '### System:\\nYou are a bot.\\n\\n' }}{% endif %}"
)
"""As SmolLM2, Qwen and others do where no system message is given."""

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")),
    reason="transformers serve needs pip install -e '.[serve]'",
)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories: both templates, one that samples, one with a system message of its own."""
    root = tmp_path_factory.mktemp("served")
    own = write_student(root / "own", ORCA_TEMPLATE)
    file = own / "chat_template.jinja"
    file.write_text(OWN_MESSAGE + file.read_text())
    return {
        "orca": write_student(root / "orca", ORCA_TEMPLATE),
        "chatml": write_student(root / "chatml", CHATML_TEMPLATE),
        "samples": write_student(root / "samples", ORCA_TEMPLATE, samples=True),
        "own": own,
    }


@pytest.fixture(scope="module")
def base_url(students: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running ``transformers serve``."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", "--device", "cpu"],
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        end = time.monotonic() + START
        while time.monotonic() < end and process.poll() is None:
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
        yield found[1] + "/v1"
    finally:
        process.terminate()
        process.wait(30)


def conversation(system_message: str, *turns: str) -> Conversation:
    """Questions and answers in turn; the last question waits."""
    pairs = [*turns, None]
    return Conversation(
        system_message, [Turn(str(q), a) for q, a in zip(pairs[::2], pairs[1::2], strict=True)]
    )


CONVERSATIONS = {
    "no system message": conversation("", "What is 2 + 3?"),
    "number 5": conversation(SYSTEM_MESSAGES[5], "What is 2 + 3?"),
    "number 15, several lines": conversation(SYSTEM_MESSAGES[15], "Ünï ©ode?\nOPTIONS:\n(A) 1"),
    "two turns": conversation("", "What is 2 + 3?", "It is 5.", "And 4 more?"),
    "three turns under number 7": conversation(
        SYSTEM_MESSAGES[7], "Hello", "Hi.", "Who?", "I.", "Why?"
    ),
}


def ask(base_url: str, model: Path, messages: list[dict[str, str]], **options: Any) -> Any:
    """A completion as a plain client asks for it; greedy unless options say otherwise."""
    client = openai.OpenAI(base_url=base_url, api_key="none")
    options = {"temperature": 0, "max_tokens": MOST_TOKENS, **options}
    return client.chat.completions.create(model=str(model), messages=messages, **options)


@pytest.fixture(scope="module")
def local(students: dict[str, Path]) -> dict[str, LocalModel]:
    return {name: LocalModel(str(path), "float32", "cpu") for name, path in students.items()}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", ["orca", "chatml"])
def test_the_server_feeds_a_student_the_tokens_of_training(
    base_url: str,
    students: dict[str, Path],
    local: dict[str, LocalModel],
    template: str,
    name: str,
) -> None:
    """Same greedy text and same number of prompt tokens as from the rendered training prompt."""
    said, here = CONVERSATIONS[name], local[template]
    reply = ask(base_url, students[template], said.messages())
    expected = "".join(here.answer(said, 0.0, MOST_TOKENS, seed=0))
    assert reply.choices[0].message.content == expected != ""
    assert reply.usage.prompt_tokens == len(said.turns[-1].prompt or [])
    reason = "stop" if here.finish_reason == "stop" else "length"
    assert reply.choices[0].finish_reason == reason


@pytest.mark.parametrize("template", [ORCA_TEMPLATE, CHATML_TEMPLATE], ids=lambda t: t.name)
def test_the_chat_reads_what_training_made_of_a_trace(
    local: dict[str, LocalModel], template: Template
) -> None:
    here = local[template.name]
    encoder = Encoder(here.engine.tokenizer, template, 2048)
    for number, system_message in SYSTEM_MESSAGES.items():
        trace = Trace("t", system_message, f"Is {number} <|im_end|> odd?", "Yes.")
        (example,) = encoder.encode([trace])
        ids = here.prompt(conversation(system_message, trace.query), MOST_TOKENS)
        assert ids == example.tokens[: example.num_prompt].tolist()


def test_different_prompts_do_get_different_answers(
    base_url: str, students: dict[str, Path]
) -> None:
    """Else equal answers would say nothing of the prompts."""
    said = [
        ask(base_url, students["orca"], one.messages()).choices[0].message.content
        for one in CONVERSATIONS.values()
    ]
    assert len(set(said)) == len(said)


def test_an_absent_and_an_empty_system_message_are_the_same_to_a_trained_student(
    base_url: str, students: dict[str, Path]
) -> None:
    messages = CONVERSATIONS["no system message"].messages()
    empty = [{"role": "system", "content": ""}, *messages]
    for template in ("orca", "chatml"):
        absent, given = (ask(base_url, students[template], m) for m in (messages, empty))
        assert absent.usage.prompt_tokens == given.usage.prompt_tokens
        assert absent.choices[0].message.content == given.choices[0].message.content


def test_an_absent_system_message_is_the_templates_own_where_it_has_one(
    base_url: str, students: dict[str, Path], local: dict[str, LocalModel]
) -> None:
    """The trap of other models; an empty one that is sent keeps it out."""
    said = CONVERSATIONS["no system message"]
    length = len(local["own"].prompt(said, MOST_TOKENS))
    absent = ask(base_url, students["own"], said.messages())
    served = ServedModel(Endpoint(base_url, str(students["own"])))
    empty = ask(base_url, students["own"], served.messages(said))
    assert empty.usage.prompt_tokens == length
    assert absent.usage.prompt_tokens == length + len("### System:\nYou are a bot.\n\n")
    streamed = "".join(served.answer(said, 0.0, MOST_TOKENS, seed=0))
    # A streamed answer that is cut within a character lacks its bytes.
    assert streamed and empty.choices[0].message.content.startswith(streamed)
    assert served.finish_reason == empty.choices[0].finish_reason


def test_the_server_takes_special_tokens_that_a_question_spells_and_long_prompts(
    base_url: str, students: dict[str, Path], local: dict[str, LocalModel]
) -> None:
    """Traps that docs/serving.md names: here such a mark is broken up, such a prompt refused."""
    said = conversation("", "Is <|im_end|> a mark?")
    reply = ask(base_url, students["chatml"], said.messages())
    assert reply.usage.prompt_tokens == len(local["chatml"].prompt(said, 1)) - len("<|im_end|>")
    long = conversation("", "x" * 2048)
    assert ask(base_url, students["orca"], long.messages()).usage.prompt_tokens > 2048
    with pytest.raises(UserError, match="leaves no room"):
        local["orca"].prompt(long, 1)


def test_the_temperature_of_a_request_is_heeded_only_where_the_directory_samples(
    base_url: str, students: dict[str, Path]
) -> None:
    messages = CONVERSATIONS["number 5"].messages()

    def draws(name: str, **options: Any) -> set[str]:
        hot = [ask(base_url, students[name], messages, temperature=1.5, **options) for _ in "1234"]
        return {one.choices[0].message.content for one in hot}

    assert len(draws("orca")) == 1 < len(draws("samples"))
    in_the_body = {"generation_config": '{"do_sample": true}'}
    assert len(draws("orca", extra_body=in_the_body)) > 1


def test_a_server_that_does_not_run_or_know_the_model_is_told(
    base_url: str, students: dict[str, Path]
) -> None:
    said = CONVERSATIONS["no system message"]
    with pytest.raises(UserError, match="is the server running"):
        list(ServedModel(Endpoint("http://127.0.0.1:9/v1", "m")).answer(said, 0.0, 1, 0))
    with pytest.raises(UserError, match="base_url="):
        list(ServedModel(Endpoint(base_url, "/no/such/model")).answer(said, 0.0, 1, 0))
