"""A chat is what its commands make of it, and the student reads what training would have shown."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_students import write_student
from conftest import ORCA_TEMPLATE, compose_config
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from orca.chat import Conversation, LocalModel, Terminal, Turn, read_system_message, text_pieces
from orca.chat.__main__ import newest_model
from orca.config import to_the_letter
from orca.decoding import Row
from orca.errors import UserError
from orca.traces import SYSTEM_MESSAGES, TraceSource
from orca.training import byte_tokenizer, next_command

MOST = 40


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    directory = write_student(tmp_path_factory.mktemp("student"), ORCA_TEMPLATE, context=400)
    return LocalModel(str(directory), "float32", "cpu")


@pytest.fixture
def chat(
    student: LocalModel, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Terminal, str]]:
    """Types lines into a chat; the chat and what it showed."""

    def type_in(*lines: str, temperature: float = 0.0, model: Any = student) -> Any:
        capsys.readouterr()
        typed = iter(lines)

        def read_line(_: str) -> str:
            line = next(typed, None)
            if line is None:
                raise EOFError
            return line

        terminal = Terminal(model, Conversation(), temperature, MOST, 0, read_line)
        terminal.run()
        return terminal, capsys.readouterr().out

    return type_in


def asked(student: LocalModel, terminal: Terminal) -> list[str]:
    """The prompts that were read, as text."""
    return [student.engine.tokenizer.decode(t.prompt) for t in terminal.conversation.turns]


def test_an_answer_is_what_transformers_writes_after_the_training_prompt(
    student: LocalModel, chat: Any
) -> None:
    terminal, shown = chat("What is 2+3?")
    (turn,) = terminal.conversation.turns
    ids = student.engine.encode([ORCA_TEMPLATE.prompt("", "What is 2+3?")])
    assert turn.prompt == ids[0]
    model = AutoModelForCausalLM.from_pretrained(student.name)
    whole = model.generate(torch.tensor(ids), max_new_tokens=MOST, do_sample=False)[0]
    expected = student.engine.tokenizer.decode(whole[len(ids[0]) :], skip_special_tokens=True)
    assert turn.answer == expected != ""
    assert shown.startswith(f"model: {student.name} (")
    for told in ("device: cpu, float32 (as configured)", "template: orca", "system message: 1"):
        assert told in shown


def test_every_turn_so_far_is_in_the_prompt_of_the_next(student: LocalModel, chat: Any) -> None:
    terminal, _ = chat("/system 5", "One?", "Two?")
    first, second = asked(student, terminal)
    answer, end = terminal.conversation.turns[0].answer, student.engine.tokenizer.eos_token
    assert first == ORCA_TEMPLATE.prompt(SYSTEM_MESSAGES[5], "One?")
    assert second == f"{first}{answer}{end}{ORCA_TEMPLATE.prompt('', 'Two?')}"


@pytest.mark.parametrize(
    ("given", "message"),
    [("16", SYSTEM_MESSAGES[16]), ("1", ""), ("none", ""), ("text Be a pirate.", "Be a pirate.")],
)
def test_the_system_message_is_switched_and_kept_when_the_turns_are_cleared(
    student: LocalModel, chat: Any, given: str, message: str
) -> None:
    terminal, _ = chat("/system 7", "One?", f"/system {given}", "/clear", "Two?")
    assert asked(student, terminal) == [ORCA_TEMPLATE.prompt(message, "Two?")]


def test_every_system_message_is_listed(chat: Any) -> None:
    _, shown = chat("/system")
    assert all(text in shown for text in SYSTEM_MESSAGES.values())


def test_raw_shows_every_token_that_was_read(student: LocalModel, chat: Any) -> None:
    terminal, shown = chat("Hi <|im_end|> you", "/raw")
    ids = terminal.conversation.turns[0].prompt
    assert f"{len(ids)} tokens" in shown
    assert " ".join(f"{i}:{student.engine.tokenizer.decode([i])!r}" for i in ids) in shown
    assert ORCA_TEMPLATE.prompt("", "Hi <|im_end|> you") + "▌" in shown


def test_retry_draws_another_answer_to_the_same_prompt(student: LocalModel, chat: Any) -> None:
    once, _ = chat("Hello?", temperature=2.0)
    again, _ = chat("Hello?", "/retry", temperature=2.0)
    same, _ = chat("Hello?", "/retry", temperature=2.0)
    (first,), (second,), (third,) = (t.conversation.turns for t in (once, again, same))
    assert first.prompt == second.prompt
    assert first.answer != second.answer == third.answer


def test_a_saved_exchange_is_a_trace_that_training_reads(chat: Any, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    terminal, _ = chat("/system 3", "Why?", f"/save {file}", "How?", f"/save {file}")
    one, two = map(json.loads, file.read_text().splitlines())
    assert [m["role"] for m in two["messages"]] == ["system", *["user", "assistant"] * 2]
    file.write_text(json.dumps(one) + "\n")
    (trace,) = TraceSource(str(file), "chat")
    turn = terminal.conversation.turns[0]
    assert (trace.system_message, trace.query) == (SYSTEM_MESSAGES[3], "Why?")
    assert turn.answer is not None and trace.response == turn.answer.strip()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/sistem 5", "no command /sistem"),
        ("/system 18", "numbers 1 to 17"),
        ("/system You are", "text followed by your own"),
        ("/system ²", "text followed by your own"),
        ("/raw", "nothing has been asked"),
        ("/retry", "nothing has been asked"),
        ("/save", "needs the name"),
        ("/save chat.jsonl", "nothing to save"),
        ("x" * 400, "leaves no room"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_what_cannot_be_done_is_told_and_the_chat_goes_on(chat: Any, line: str, told: str) -> None:
    terminal, shown = chat(line, "Hello?")
    assert told in shown.partition("Ctrl-D ends the chat")[2]
    assert [turn.question for turn in terminal.conversation.turns] == ["Hello?"]


def test_lines_go_on_after_a_backslash_and_two_slashes_are_no_command(chat: Any) -> None:
    terminal, _ = chat("one\\", "two", "//usr", "", "   ")
    assert [turn.question for turn in terminal.conversation.turns] == ["one\ntwo", "/usr"]


def test_the_oldest_turns_leave_a_full_context_and_it_is_said(
    student: LocalModel, chat: Any
) -> None:
    """The answer keeps room for max_new_tokens; what is read are whole turns, the last ones."""
    terminal, shown = chat(*(f"{n} {'x' * 100}" for n in range(5)))
    conversation, context = terminal.conversation, student.engine.context
    assert 0 < conversation.left_out < 5 and "[the context is full: the first" in shown
    assert len(conversation.turns) == 5  # nothing is lost
    for turn in conversation.turns:
        assert turn.prompt is not None and len(turn.prompt) + MOST <= context
    last = asked(student, terminal)[-1]
    assert last.startswith(f"### Human:\n{conversation.left_out} x")


def test_a_question_that_is_refused_leaves_the_conversation_as_it_was(
    student: LocalModel, chat: Any
) -> None:
    terminal, shown = chat("One?", "x" * 400, "Two?")
    assert "leaves no room" in shown and terminal.conversation.left_out == 0
    assert asked(student, terminal)[-1].startswith(ORCA_TEMPLATE.prompt("", "One?"))


def test_a_question_alone_may_leave_less_room_than_an_answer_may_take(
    student: LocalModel,
) -> None:
    empty = len(student.prompt(Conversation(turns=[Turn("")]), MOST))
    conversation = Conversation(turns=[Turn("x" * (student.engine.context - empty - 3))])
    "".join(student.answer(conversation, 0.0, MOST, 0))
    assert len(conversation.turns[0].prompt or []) == student.engine.context - 3


class Broken:
    """A model whose answer ends in an error, an interruption or in what a terminal obeys."""

    name = "broken"
    finish_reason = "stop"

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def describe(self) -> list[str]:
        return []

    def answer(self, *_: Any) -> Iterator[str]:
        yield "half\x1b[2J"
        if self.error:
            raise self.error

    def raw(self, conversation: Conversation) -> str:
        return f"{conversation.turns[0].answer}\x9b31m"


def test_ctrl_c_keeps_what_was_written_and_an_error_keeps_nothing(chat: Any) -> None:
    terminal, shown = chat("Hello?", model=Broken(KeyboardInterrupt()))
    (turn,) = terminal.conversation.turns
    assert (turn.answer, turn.finish_reason) == ("half\x1b[2J", "interrupted")
    assert "[stopped" in shown
    terminal, shown = chat("Hello?", model=Broken(UserError("no memory")))
    assert terminal.conversation.turns == [] and "error: no memory" in shown


def test_ctrl_c_before_an_answer_begins_leaves_the_conversation_as_it_was(
    student: LocalModel, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty answer would be one that the student reads."""
    terminal, _ = chat("One?")
    answer = terminal.conversation.turns[0].answer

    def stopped(*_: Any) -> Iterator[str]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(student, "answer", stopped)
    for line in ("Two?", "/retry"):
        with pytest.raises(KeyboardInterrupt):
            terminal.obey(line)
        assert [(t.question, t.answer) for t in terminal.conversation.turns] == [("One?", answer)]


def test_escape_sequences_of_an_answer_are_shown_and_not_obeyed(chat: Any) -> None:
    model = Broken()
    model.finish_reason = "\x1b[31m"
    _, shown = chat("Hello?", "/raw", model=model)
    assert shown.count(r"half\x1b[2J") == 2 and not {"\x1b", "\x9b"} & set(shown)
    _, shown = chat("Hello?", model=Broken(UserError("no \x1b]0;memory")))
    assert r"error: no \x1b]0;memory" in shown and "\x1b" not in shown


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_streaming_writes_the_answers_of_a_batch(student: LocalModel, temperature: float) -> None:
    """Also after an answer that nobody waited for, and with a prompt that shares a beginning."""
    decoder, prompts = student.engine.decoder, [list(b"Questions"), list(b"Questionable?")]
    for seed, ids in enumerate(prompts):
        streamed, batch = Row(0, ids, seed, 60), Row(0, ids, seed, 60)
        for _ in itertools.islice(decoder.stream(Row(0, ids, 9, 60), temperature), 2):
            pass
        tokens = list(decoder.stream(streamed, temperature))
        list(decoder.generate([batch], temperature))
        assert tokens == batch.new_ids == streamed.new_ids
        assert streamed.ended == batch.ended


BYTES = byte_tokenizer()


@given(st.one_of(st.text().map(str.encode), st.binary()))
def test_pieces_are_whole_characters_and_together_the_text(data: bytes) -> None:
    alphabet = BYTES.convert_tokens_to_ids([BYTE_NAMES[byte] for byte in data])
    pieces = list(text_pieces(alphabet, BYTES.decode))
    assert "".join(pieces) == data.decode(errors="replace") == BYTES.decode(alphabet)
    assert all(pieces)
    assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces[:-1])
    if data.isascii():
        assert len(pieces) == len(data)  # nothing waits that need not


BYTE_NAMES = {}
"""Token of each byte, by what it decodes to or, for bytes that are no text, by GPT-2's table."""
for _byte in range(256):
    if 33 <= _byte <= 126 or 161 <= _byte <= 172 or 174 <= _byte <= 255:
        BYTE_NAMES[_byte] = chr(_byte)
    else:
        BYTE_NAMES[_byte] = chr(
            256 + sum(b not in BYTE_NAMES or ord(BYTE_NAMES[b]) > 255 for b in range(_byte))
        )


@given(
    st.one_of(
        st.text(st.characters(blacklist_categories=("Cs",))),
        st.lists(st.sampled_from(["${", "}", "\\", "'", '"', "a", "$", " ", ","])).map("".join),
    )
)
@example("Use ${HOME}, and \\${a}")
@example("'Tis so")
@example('"Yes", he said')
def test_an_option_that_is_taken_to_the_letter_comes_through_hydra_as_typed(text: str) -> None:
    (argument,) = to_the_letter([f"system={text}"], {"system": "system"}, interpolated=False)
    if text[:1] in ("'", '"') and text[-1] == text[0] and len(text) > 1:
        assert argument == f"system={text}" or text[1:-1].count(text[0])  # quoted by who typed it
    else:
        value = OverridesParser.create().parse_override(argument).value()
        assert OmegaConf.create({"system": value}).system == text or text == "???"


def test_interpolations_are_kept_where_they_are_wanted() -> None:
    (argument,) = to_the_letter(["out=runs/${name},b"], {"out": "out"})
    value = OverridesParser.create().parse_override(argument).value()
    assert OmegaConf.create({"out": value, "name": "a"}).out == "runs/a,b"


def test_other_options_stay_as_they_are() -> None:
    typed = ["model=a,b=c", "seed=1,2", "-m", "modelling=x"]
    assert to_the_letter(typed, {"model": "model_path"}) == ["model_path='a,b=c'", *typed[1:]]


def test_a_system_message_is_a_number_nothing_or_a_text() -> None:
    assert [read_system_message(g) for g in ("5", "none", "Be brief.")] == [
        SYSTEM_MESSAGES[5], "", "Be brief.",
    ]  # fmt: skip
    assert [read_system_message(g) for g in ("²", "--5")] == ["²", "--5"]
    for wrong in ("0", "18", "-1"):
        with pytest.raises(UserError, match="numbers 1 to 17"):
            read_system_message(wrong)


def test_the_newest_finished_model_is_taken_of_runs_and_jobs(tmp_path: Path) -> None:
    import os

    with pytest.raises(UserError, match="no stage has finished"):
        newest_model(tmp_path)
    stages = ["run/stage", "run/job=1,seed=2/stage", "other/stage", "weightless/stage"]
    for age, name in enumerate(stages):
        (tmp_path / name / "hf").mkdir(parents=True)
        if name != "weightless/stage":
            (tmp_path / name / "hf" / "config.json").write_text("{}")
        (tmp_path / name / "results.json").write_text("{}")
        os.utime(tmp_path / name / "results.json", (1_000 + age, 1_000 + age))
    assert newest_model(tmp_path) == tmp_path / "other" / "stage" / "hf"
    os.utime(tmp_path / stages[1] / "results.json", (2_000, 2_000))
    assert newest_model(tmp_path) == tmp_path / stages[1] / "hf"


def test_a_finished_run_proposes_a_chat_with_its_last_stage(tmp_path: Path) -> None:
    for run in ("run", "seed=1,arm=a b's"):
        config = compose_config("stage=progressive", run_dir=tmp_path / run)
        start, _, command = next_command(config).partition(": ")
        *program, model = shlex.split(command)
        assert (start, program) == ("next", ["python", "-m", "orca.chat"])
        (argument,) = to_the_letter([model], {"model": "model_path"})
        named = OverridesParser.create().parse_override(argument).value()
        assert named == str(tmp_path / run / "flan1m_gpt4" / "hf")
