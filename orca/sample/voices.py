"""The short and the long voice, worded as each of the paper's system messages asks.

Both voices show the same worked lines, so that a student meets one procedure per family; the long
voice also restates the task, justifies the lines and checks the result. Message 14 is about
translation and no family is, so no voice speaks under it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from orca.sample.families_base import Problem
from orca.traces.system_messages import MULTIPLE_CHOICE_ONLY, SYSTEM_MESSAGES

VOICES = ("short", "long")
"""Short answers stand in for stage 1 of the paper, long ones for stage 2."""

MESSAGE_IDS = tuple(number for number in SYSTEM_MESSAGES if number != 14)
"""The messages that the sample uses."""

FREE_MESSAGE_IDS = tuple(n for n in MESSAGE_IDS if n not in MULTIPLE_CHOICE_ONLY)
"""The messages that fit questions without options."""

ANSWER_FIRST = MULTIPLE_CHOICE_ONLY
"""Both multiple-choice messages ask for the answer before the explanation."""


def respond(problem: Problem, message_id: int, voice: str, rng: Random) -> str:
    """The response to ``problem`` under a system message, in the ``short`` or ``long`` voice."""
    return _SPEAKERS[message_id](problem, voice == "long", rng)


def stated_answer(response: str, message_id: int) -> str | None:
    """The answer that ``response`` states in the place where its system message wants it."""
    if message_id in ANSWER_FIRST:
        match = re.match(r"The answer is (.+?)\.(?= )", response)
    else:
        match = re.search(r"(?:^|\s)The answer is ((?:(?!The answer is).)+)\.$", response)
    return match[1] if match else None


def _answer(problem: Problem) -> str:
    return f"The answer is {problem.gold}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _work(problem: Problem) -> str:
    return " ".join(f"{step.work}." for step in problem.steps)


def _numbered_and_justified(problem: Problem) -> str:
    """The worked lines with their reasons; a reason that was just given is not repeated."""
    lines, given = [], ""
    for number, step in enumerate(problem.steps, start=1):
        line = f"Step {number}: {step.work}"
        if step.reason != given:
            # After a list, ", because" would read as one more item of it.
            line += ("; " if "," in step.work else ", because ") + step.reason
        given = step.reason
        lines.append(line + ".")
    return " ".join(lines)


def _faults(problem: Problem, rng: Random) -> str:
    link = rng.choice((" is wrong because ", " is not right: ", " does not fit, since "))
    wrong = [choice for choice in problem.choices if choice.fault]
    return " ".join(f"{choice.label}{link}{choice.fault}." for choice in wrong)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _task(problem: Problem, rng: Random) -> str:
    return rng.choice(("The task is to {}.", "We have to {}.", "We are asked to {}.")).format(
        problem.task
    )


def _check(
    problem: Problem, rng: Random, openings: Sequence[str] = ("Check: ", "Double check: ")
) -> str:
    return rng.choice(openings) + problem.check


def _plain(problem: Problem, long: bool, rng: Random) -> str:
    opening = rng.choice(("", "", "I work it out.", "Let us see."))
    check = _check(problem, rng) if long else ""
    return _join(opening, _work(problem), check, _answer(problem))


def _detailed(problem: Problem, long: bool, rng: Random) -> str:
    definition = rng.choice(problem.definitions)
    check = _check(problem, rng) if long else ""
    return _join(_task(problem, rng), definition, _work(problem), check, _answer(problem))


def _step_by_step(problem: Problem, long: bool, rng: Random) -> str:
    steps = _numbered_and_justified(problem)
    task, check = (_task(problem, rng), _check(problem, rng)) if long else ("", "")
    return _join(task, steps, check, _answer(problem))


def _to_a_child(problem: Problem, long: bool, rng: Random) -> str:
    hello = rng.choice(("Hi there!", "Okay, little friend!", "Let us play!", "This is fun!"))
    plain = rng.choice(problem.plain)
    if long:
        wish = rng.choice(("We want to {}.", "Our little job is to {}.")).format(problem.task)
        check = _check(problem, rng, ("Let us look again! ", "Are we right? Yes! "))
        return _join(hello, wish, plain, _work(problem), check, _answer(problem))
    return _join(hello, plain, _work(problem), _answer(problem))


def _definition_used(problem: Problem, long: bool, rng: Random) -> str:
    definition = f"The definition says: {rng.choice(problem.definitions)}"
    if long:
        used, check = f"Here I used it to {problem.task}:", _check(problem, rng)
    else:
        used, check = rng.choice(("I used it like this:", "Used here:")), ""
    return _join(definition, used, _work(problem), check, _answer(problem))


def _teacher(problem: Problem, long: bool, rng: Random) -> str:
    asks = rng.choice(("The task asks you to {}.", "You are asked to {}.")).format(problem.task)
    if long:
        return _join(
            asks,
            f"The guidelines: {problem.method} {problem.form}",
            f"Now use them: {_work(problem)}",
            _check(problem, rng),
            _answer(problem),
        )
    return _join(asks, f"Guideline: {problem.method} Use it: {_work(problem)}", _answer(problem))


def _parts(problem: Problem, long: bool, rng: Random) -> str:
    parts = []
    usage = f"{_work(problem)} It meets the part because {problem.steps[-1].reason}."
    if long:
        task = _capital(problem.task)
        parts.append((f"{task}.", f"This means: {rng.choice(problem.definitions)}"))
        parts.append((problem.method, f"{usage} {problem.check}"))
    else:
        parts.append((problem.method, usage))
    parts.append((problem.form, f"{problem.form_reason} {_answer(problem)}"))
    return "\n".join(
        f"Part #{number}: {part}\nUsage: {usage}"
        for number, (part, usage) in enumerate(parts, start=1)
    )


def _choice_to_a_child(problem: Problem, long: bool, rng: Random) -> str:
    plain = rng.choice(problem.plain)
    if long:
        wish = rng.choice(("We want to {}.", "Our little job is to {}.")).format(problem.task)
        check = _check(problem, rng, ("Let us look again! ", "Are we right? Yes! "))
        faults = f"Now the other ones! {_faults(problem, rng)}"
        return _join(_answer(problem), wish, plain, _work(problem), faults, check)
    return _join(_answer(problem), plain, _work(problem), _faults(problem, rng))


def _choice(problem: Problem, long: bool, rng: Random) -> str:
    if long:
        return _join(
            _answer(problem),
            _task(problem, rng),
            rng.choice(problem.definitions),
            _work(problem),
            _faults(problem, rng),
            _check(problem, rng),
        )
    return _join(_answer(problem), _task(problem, rng), _work(problem), _faults(problem, rng))


_SPEAKERS: dict[int, Callable[[Problem, bool, Random], str]] = {
    1: _plain,
    2: _detailed,
    3: _detailed,
    4: _to_a_child,
    5: _plain,
    6: _detailed,
    7: _step_by_step,
    8: _choice_to_a_child,
    9: _definition_used,
    10: _choice,
    11: _step_by_step,
    12: _step_by_step,
    13: _teacher,
    15: _parts,
    16: _plain,
}
