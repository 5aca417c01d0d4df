"""The chat in a terminal: lines in, commands, answers as they are written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orca.chat.conversation import (
    CONTROLS,
    IDS,
    Conversation,
    Turn,
    message_number,
    read_system_message,
)
from orca.chat.model import Model
from orca.errors import UserError
from orca.paths import cache_dir
from orca.traces import NUMBERED_MESSAGES

HELP = f"""\
/system          list the paper's system messages
/system N        take number N ({IDS}: Table 2's, then Orca 2's)
/system none     no system message
/system text …   a text of your own
/raw             the prompt of the last answer, as tokens and as text
/retry           answer the last question again, with another seed
/clear           begin a new conversation; the system message stays
/save FILE       append the conversation to a JSONL file
/quit            end, as Ctrl-D does
Ctrl-C stops an answer. A line that ends in \\ goes on in the next; //… asks a question that begins
with a slash."""

HISTORY_LINES = 1_000


class Terminal:
    """A chat with one model.

    Args:
        temperature, max_new_tokens: of every answer.
        seed: of the first answer; the next ones count on.
        read_line: shows a prompt and returns a line; EOFError ends the chat.
    """

    def __init__(
        self,
        model: Model,
        conversation: Conversation,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        read_line: Callable[[str], str] = input,
    ) -> None:
        self.model = model
        self.conversation = conversation
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self.read_line = read_line
        self.commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(HELP),
            "system": self.system,
            "raw": self.raw,
            "retry": self.retry,
            "clear": self.clear,
            "save": self.save,
        }

    def run(self) -> None:
        """Until /quit or the end of the input."""
        self.greet()
        while True:
            try:
                line = self.read_question()
                if line == "/quit":
                    return
                self.obey(line)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:  # at the prompt: the line is thrown away, as in a shell
                print()
            except UnicodeError:
                print("error: this line is not UTF-8")
            except UserError as error:
                print(f"error: {error}".translate(CONTROLS))

    def greet(self) -> None:
        """What answers, and how it is asked."""
        drawn = f"seed {self.seed}" if self.temperature else "the most likely tokens"
        for line in (
            *self.model.describe(),
            f"system message: {told(self.conversation.system_message)}",
            f"answers: temperature {self.temperature:g}, {drawn}, up to "
            f"{self.max_new_tokens:,} tokens",
            "/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the chat",
        ):
            print(line)

    def read_question(self) -> str:
        """A line, or several of which all but the last end in a backslash."""
        lines = [self.read_line("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self.read_line(". "))
        question = "\n".join(lines).strip()
        question.encode()  # raises UnicodeError on bytes that were no text
        return question

    def obey(self, line: str) -> None:
        """Run a command, or ask a question."""
        if not line.startswith("/") or line.startswith("//"):
            if line:
                self.conversation.turns.append(Turn(line.removeprefix("/")))
                self.answer()
            return
        name, _, argument = line[1:].partition(" ")
        if name not in self.commands:
            raise UserError(f"there is no command /{name}; /help lists them")
        self.commands[name](argument.strip())

    def answer(self) -> None:
        """Write the answer to the last question."""
        turn, before = self.conversation.turns[-1], self.conversation.turns[-1].answer
        left_out, written = self.conversation.left_out, ""
        turn.answer = None
        try:
            for piece in self.model.answer(
                self.conversation, self.temperature, self.max_new_tokens, self.seed
            ):
                written += piece
                print(piece.translate(CONTROLS), end="", flush=True)
            turn.finish_reason = self.model.finish_reason
        except (KeyboardInterrupt, UserError) as error:
            if isinstance(error, UserError) or not written:
                turn.answer = before  # a /retry that failed
                if before is None:
                    self.conversation.turns.pop()
                self.conversation.left_out = left_out  # for a question that is not there
                if written:
                    print()
                raise
            turn.finish_reason = "interrupted"
        turn.answer = written
        self.seed += 1
        print()
        if turn.finish_reason == "interrupted":
            print("[stopped; the conversation goes on from here]")
        elif turn.finish_reason == "length":
            print("[cut: this is as long as max_new_tokens or the context allows]")
        elif turn.finish_reason != "stop":
            print(f"[ended by the server: {turn.finish_reason}]".translate(CONTROLS))
        if self.conversation.left_out > left_out:
            first = self.conversation.left_out
            print(f"[the context is full: the first {first} turn(s) were and stay left out]")

    def system(self, argument: str) -> None:
        if not argument:
            for number, text in NUMBERED_MESSAGES.items():
                print(f"{number:>2}  {text or '(empty)'}")
            return
        word, _, text = argument.partition(" ")
        if word == "text" and text.strip():
            message = text.strip()
        elif word.isdecimal() or argument == "none":
            message = read_system_message(argument)
        else:
            raise UserError(
                f"/system {argument}: a number from {IDS}, none, or text followed by your own"
            )
        self.conversation.system_message = message
        kept = "; the conversation goes on under it" if self.conversation.turns else ""
        print(f"system message: {told(message)}{kept}")

    def raw(self, _: str) -> None:
        self._last_turn()
        print(self.model.raw(self.conversation).translate(CONTROLS))

    def retry(self, _: str) -> None:
        self._last_turn()
        self.answer()

    def clear(self, _: str) -> None:
        self.conversation.clear()
        print("[a new conversation]")

    def save(self, argument: str) -> None:
        if not argument:
            raise UserError("/save needs the name of a file: /save chat.jsonl")
        self.conversation.save(Path(argument), self.model.name)
        print(f"[added to {argument}]")

    def _last_turn(self) -> Turn:
        if not self.conversation.turns:
            raise UserError("nothing has been asked yet")
        return self.conversation.turns[-1]


def told(system_message: str) -> str:
    """A system message for the screen: its number, or that it is the user's own, and its text."""
    return f"{message_number(system_message)} ({system_message or 'empty'})"


def answer_once(
    model: Model,
    conversation: Conversation,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> None:
    """Answer all of the standard input as one question; the standard output gets the answer alone,
    to the byte where it is no terminal.

    Raises:
        UserError: the input is empty or no text.
    """
    try:
        question = sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"the standard input is not UTF-8 ({error})") from None
    if not question:
        raise UserError("nothing to ask: the standard input is empty")
    conversation.turns.append(Turn(question))
    controls = CONTROLS if sys.stdout.isatty() else {}
    for piece in model.answer(conversation, temperature, max_new_tokens, seed):
        print(piece.translate(controls), end="", flush=True)
    print()
    if model.finish_reason != "stop":
        reason = model.finish_reason.translate(CONTROLS)
        print(f"warning: the answer was cut ({reason})", file=sys.stderr)


def edited_line() -> Callable[[str], str]:
    """``input`` with line editing and a history that is kept in the cache directory."""
    try:
        import readline
    except ImportError:  # of Pythons that were built without it
        return input
    import atexit

    file = cache_dir() / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)

    def keep() -> None:
        with suppress(OSError):
            readline.write_history_file(file)

    atexit.register(keep)
    return input
