"""Families asked as multiple choice: comparing, finding, continuing, turning."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from orca.sample.families_base import (
    OPTION_FORM,
    Family,
    Item,
    Problem,
    Step,
    lettered,
    option_form_reason,
    right_choice,
)


def solve_number_format(item: Item, rng: Random) -> Problem | None:
    """Go through the options and remember the best number so far."""
    size = item["metadata"]["size"]
    numbers = [round(candidate, 2) for candidate in item["metadata"]["candidates"]]
    if len({int(number) for number in numbers}) < len(numbers):
        # The whole part decides, and the options stay far apart for the checker.
        return None
    best_number = max(numbers) if size == "largest" else min(numbers)
    tower = "tallest" if size == "largest" else "shortest"
    far, near = ("smaller", "larger") if size == "largest" else ("larger", "smaller")
    wrong = [
        (f"{number:.2f}", f"it is {far} than {best_number:.2f}")
        for number in numbers
        if number != best_number
    ]
    choices = lettered(f"{best_number:.2f}", wrong, rng)
    best = right_choice(choices)
    leader = choices[0]
    steps = [Step(f"{leader.label} is the start", "it is the first number")]
    for choice in choices[1:]:
        rise = float(choice.text) - float(leader.text)
        better = rise > 0 if size == "largest" else rise < 0
        reason = f"{int(float(choice.text))} is {near if better else far} than "
        reason += f"{int(float(leader.text))}"
        leader = choice if better else leader
        verb = "take" if better else "keep"
        steps.append(
            Step(f"{choice.label} is {near if better else far}, {verb} ({leader.letter})", reason)
        )
    return Problem(
        stem=f"Pick the {size} number of the following candidates.",
        gold=best.letter,
        task=f"find the {size} of the numbers",
        definitions=(
            "To compare numbers, look at the part before the point first.",
            f"Go through the numbers and remember the {size} one so far.",
        ),
        plain=(
            f"Think of the numbers as towers; we look for the {tower} one.",
            "Two numbers play against each other, and the winner meets the next one.",
        ),
        steps=tuple(steps),
        check=f"None of the numbers is {near} than {best.text}.",
        method=f"Compare one number after the other and remember the {size}.",
        form=OPTION_FORM,
        form_reason=option_form_reason(best),
        difficulty=len(numbers),
        choices=choices,
        subject=f"{size} {' '.join(map(str, numbers))}",
    )


def solve_needle_haystack(item: Item, rng: Random) -> Problem | None:
    """Find the statement with the words of the question and read its name."""
    text, question = item["question"].split("\n")
    statements = text.strip().rstrip(".").split(". ")
    pairs = [statement.split(" ", 1) for statement in statements]
    said = {name: rest for name, rest in pairs}
    wanted = question.removeprefix("Who ").split("?")[0]
    names = [name for name, rest in said.items() if rest == wanted]
    plain_names = all(name.isascii() and name.isalpha() and len(name) < 9 for name in said)
    if not text.isascii() or not plain_names or len(said) < len(pairs) or len(names) != 1:
        return None
    name = names[0]
    wrong = [(other, f"{other} {rest}") for other, rest in said.items() if other != name]
    choices = lettered(name, wrong, rng)
    best = right_choice(choices)
    return Problem(
        stem=f"{text.strip()} Who {wanted}?",
        gold=best.letter,
        task=f"find the person who {wanted}",
        definitions=(
            "The right name stands in the sentence that has the words of the question.",
            "Look for the sentence with the same words and take the name in it.",
        ),
        plain=(
            "It is like a hunt: one of the sentences has the treasure.",
            "We read one sentence after the other until the words match.",
        ),
        steps=(
            Step(f"{name} {wanted}", "that is what the text says"),
            Step(f"{name} is option ({best.letter})", f"({best.letter}) has that name"),
        ),
        check="No other sentence has these words.",
        method="Find the sentence with the words of the question.",
        form=OPTION_FORM,
        form_reason=option_form_reason(best),
        difficulty=len(pairs),
        choices=choices,
    )


def solve_number_sequence(item: Item, rng: Random) -> Problem | None:
    """Continue a sequence that changes by the same amount each time."""
    *shown, following = item["metadata"]["sequence"]
    change = shown[1] - shown[0]
    terms = [*shown, following]
    steady = all(b - a == change for a, b in pairwise(terms))
    if not steady or min(terms) < 0:
        return None
    sign = "+" if change > 0 else "-"
    amount = abs(change)
    # Near misses: the change forgotten, made twice, or missed by one.
    misses = [following - 1, following + 1, following + change, following + 2]
    wrong = [
        (str(miss), f"{shown[-1]} {sign} {amount} is not {miss}")
        for miss in rng.sample(sorted(set(misses) - {following}), 2)
    ]
    choices = lettered(str(following), wrong, rng)
    best = right_choice(choices)
    result = f"{shown[-1]} {sign} {amount} = {following}"
    return Problem(
        stem=f"Which number comes next? {', '.join(map(str, shown))}, ?",
        gold=best.letter,
        task="find the number that comes next",
        definitions=(
            "The numbers change by the same amount each time.",
            "Find the change from one number to the next and use it once more.",
        ),
        plain=(
            f"It is like stairs: every step has the same height, here {amount}.",
            f"A frog jumps along the numbers, and every jump is {amount} long.",
        ),
        steps=(
            Step(f"{shown[0]} {sign} {amount} = {shown[1]}", "the first two numbers show it"),
            Step(f"{shown[1]} {sign} {amount} = {shown[2]}", "the change is the same again"),
            Step(result, "the change is used once more"),
            Step(f"{following} is option ({best.letter})", f"({best.letter}) has that number"),
        ),
        check=f"All the numbers shown change by {sign}{amount}.",
        method="Find the change and use it once more.",
        form=OPTION_FORM,
        form_reason=option_form_reason(best),
        difficulty=amount,
        choices=choices,
    )


OPPOSITE = {
    "top": "bottom",
    "bottom": "top",
    "left": "right",
    "right": "left",
    "front": "back",
    "back": "front",
}


def solve_color_cube_rotation(item: Item, rng: Random) -> Problem | None:
    """Find the old place of the side that is asked for and read its colour."""
    colors: dict[str, str] = item["metadata"]["initial_state"]
    (turned,) = item["metadata"]["rotations"]
    asked = item["metadata"]["target_side"]
    if turned == "bottom":
        # A half turn can be done in two ways, which move the other sides differently.
        return None
    # New place: old place. The sides next to the turn stay where they are.
    came_from = {"top": turned, turned: "bottom", "bottom": OPPOSITE[turned]}
    came_from[OPPOSITE[turned]] = "top"
    source = came_from.get(asked, asked)
    color = colors[source]
    others = [side for side in colors if colors[side] != color]
    wrong = [
        (colors[side], f"that was the color of the {side}")
        for side in rng.sample(sorted(others), 2)
    ]
    choices = lettered(color, wrong, rng)
    best = right_choice(choices)
    if source == asked:
        move, reason = f"The {asked} stays", "the cube turns around it"
    else:
        move, reason = f"The old {source} is now the {asked}", f"the {turned} went up to the top"
    sides = ", ".join(f"{side} {colors[side]}" for side in colors)
    return Problem(
        stem=f"A cube has these colors: {sides}. It is rotated so that the {turned} side is now at "
        f"the top. What is now the color of the {asked} side?",
        gold=best.letter,
        task=f"find the color of the {asked} side after the turn",
        definitions=(
            f"When the {turned} goes to the top, the top goes to the {OPPOSITE[turned]}, the "
            f"{OPPOSITE[turned]} to the bottom and the bottom to the {turned}.",
            "Four sides move around in the turn and two sides stay.",
        ),
        plain=(
            "Think of a toy block that you roll over once.",
            "Take a block in your hand and tip it over.",
        ),
        steps=(
            Step(move, reason),
            Step(f"The {source} was {color}", "the list of colors says so"),
            Step(f"{color.capitalize()} is option ({best.letter})", f"({best.letter}) is {color}"),
        ),
        check=f"The new top is the old {turned}, as the task says.",
        method=f"Find where the {asked} side came from and read its color.",
        form=OPTION_FORM,
        form_reason=option_form_reason(best),
        difficulty=1 if source == asked else 2,
        choices=choices,
    )


CHOICE = (
    Family(
        "number_format",
        solve_number_format,
        {
            "min_num_candidates": 3,
            "max_num_candidates": 3,
            "min_n": 20,
            "max_n": 90,
            "max_delta": 15,
        },
        multiple_choice=True,
    ),
    Family(
        "needle_haystack",
        solve_needle_haystack,
        {"min_num_statements": 3, "max_num_statements": 3},
        multiple_choice=True,
    ),
    Family(
        "number_sequence",
        solve_number_sequence,
        {"max_complexity": 1, "max_terms": 4},
        multiple_choice=True,
    ),
    Family(
        "color_cube_rotation",
        solve_color_cube_rotation,
        {"max_rotations": 1},
        multiple_choice=True,
    ),
)
"""The families of this file."""
