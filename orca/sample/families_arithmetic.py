"""Families about numbers: sums, products, divisors, fractions, equations, legs."""

from __future__ import annotations

import re
from math import gcd, prod
from random import Random

from orca.sample.families_base import Family, Item, Problem, Step

NUMBER_FORM = "Give one number as the answer."


def _number_reason(number: int) -> str:
    return f"{number} is one number and nothing more is asked."


def solve_chain_sum(item: Item, rng: Random) -> Problem | None:
    """Left to right with a running total that never falls below zero."""
    expression = item["metadata"]["expression"]
    first, *rest = expression.split()
    terms = [(rest[i], int(rest[i + 1])) for i in range(0, len(rest), 2)]
    total = int(first)
    steps = []
    for sign, term in terms:
        new_total = total + term if sign == "+" else total - term
        reason = "+ adds the next number" if sign == "+" else "- takes the next number away"
        steps.append(Step(f"{total} {sign} {term} = {new_total}", reason))
        total = new_total
        if total < 0:
            return None
    back = " ".join(f"{'-' if sign == '+' else '+'} {term}" for sign, term in reversed(terms))
    return Problem(
        stem=f"State the final answer to the following arithmetic problem: {expression} =",
        gold=str(total),
        task=f"work out {expression}",
        definitions=(
            "Plus and minus are worked out from left to right.",
            "Take the numbers from left to right and keep a running total.",
        ),
        plain=(
            "Think of a jar of marbles: plus puts some in, minus takes some out.",
            "Plus means we get more toys, minus means we give some away.",
        ),
        steps=tuple(steps),
        check=f"Going backward, {total} {back} = {first}, the number we started with.",
        method="Work from left to right.",
        form=NUMBER_FORM,
        form_reason=_number_reason(total),
        difficulty=len(terms) + len(first) - 1,
    )


def solve_products(item: Item, rng: Random) -> Problem | None:
    """Multiply one factor after the other."""
    factors = [int(part) for part in item["metadata"]["expression"].split(" * ")]
    if min(factors) < 2 or prod(factors) > 200:
        return None
    steps = []
    total = factors[0]
    for factor in factors[1:]:
        product = total * factor
        reason = f"{product} is {factor} times {total}"
        steps.append(Step(f"{total} × {factor} = {product}", reason))
        total = product
    shown = " × ".join(map(str, factors))
    turned = " × ".join(map(str, reversed(factors)))
    return Problem(
        stem=f"Solve the following multiplication: {shown}.",
        gold=str(total),
        task=f"multiply {shown}",
        definitions=(
            "Multiply the first two numbers, then multiply the result by any number left.",
            "A product is worked out from left to right, one factor at a time.",
        ),
        plain=(
            "Times means counting groups that are all the same, like bags of sweets.",
            "Multiplying is adding the same number again and again.",
        ),
        steps=tuple(steps),
        check=f"The other order gives the same: {turned} = {total}.",
        method="Multiply from left to right.",
        form=NUMBER_FORM,
        form_reason=_number_reason(total),
        difficulty=len(factors) - 1,
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def solve_gcd(item: Item, rng: Random) -> Problem | None:
    """List the divisors of both numbers and take the largest in both lists."""
    a, b = item["metadata"]["numbers"]
    if a == b:
        return None
    result = max(d for d in _divisors(a) if b % d == 0)
    if result == 1 and rng.random() < 0.7:
        # Otherwise a third of the answers would be 1, and 1 a good guess.
        return None
    return Problem(
        stem=f"Find the Greatest Common Divisor (GCD) of these numbers: {a}, {b}.",
        gold=str(result),
        task=f"find the largest number that divides both {a} and {b}",
        definitions=(
            "The GCD is the largest number that divides both numbers.",
            "A common divisor divides both numbers, and the GCD is the largest one.",
        ),
        plain=(
            "Divisors are numbers that fit evenly, and we want the biggest one that both have.",
            "We want the biggest bag size that packs both heaps with nothing left over.",
        ),
        steps=(
            Step(f"The divisors of {a} are {_listed(_divisors(a))}", f"these divide {a} evenly"),
            Step(f"The divisors of {b} are {_listed(_divisors(b))}", f"these divide {b} evenly"),
            Step(f"The largest in both lists is {result}", "it divides both numbers"),
        ),
        check=f"{a} / {result} = {a // result} and {b} / {result} = {b // result} come out even.",
        method="List the divisors of each number and take the largest shared one.",
        form=NUMBER_FORM,
        form_reason=_number_reason(result),
        difficulty=len(_divisors(a)) + len(_divisors(b)),
    )


LEGS = {
    "ant": 6,
    "bee": 6,
    "bird": 2,
    "cat": 4,
    "chicken": 2,
    "cow": 4,
    "crab": 10,
    "dog": 4,
    "duck": 2,
    "elephant": 4,
    "horse": 4,
    "human": 2,
    "insect": 6,
    "lion": 4,
    "scorpion": 8,
    "snake": 0,
    "spider": 8,
    "tiger": 4,
}


def solve_leg_counting(item: Item, rng: Random) -> Problem | None:
    """Legs of each kind of animal, then a running total."""
    animals: dict[str, int] = item["metadata"]["animals"]
    if not all(animal in LEGS for animal in animals):
        return None
    names = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in animals.items()]
    legs = [count * LEGS[name] for name, count in animals.items()]
    steps = [
        Step(
            f"{shown}: {count} × {LEGS[name]} = {count * LEGS[name]}",
            f"each {name} has {LEGS[name]} legs",
        )
        for shown, (name, count) in zip(names, animals.items(), strict=True)
    ]
    total = legs[0]
    for more in legs[1:]:
        steps.append(Step(f"{total} + {more} = {total + more}", "all the legs count together"))
        total += more
    kinds = [f"{LEGS[name]} per {name}" for name in animals]
    return Problem(
        stem=f"How many legs are there in total if you have {', '.join(names)}?",
        gold=str(total),
        task="count the legs of all the animals together",
        definitions=(
            "The legs of one kind are the number of animals times the legs of one animal.",
            "Multiply each number of animals by its legs, then add the results.",
        ),
        plain=(
            "Picture the animals in a row and count their legs, one kind at a time.",
            "Each animal brings its legs, and we put all the legs on one pile.",
        ),
        steps=tuple(steps),
        check=f"The legs used are {' and '.join(kinds)}, and no animal was left out.",
        method="Multiply for each animal, then add.",
        form=NUMBER_FORM,
        form_reason=_number_reason(total),
        difficulty=len(steps),
    )


EQUATION = re.compile(r"(?:(\d+)\*)?([a-z]) ([+-]) (\d+) = (-?\d+)")


def solve_simple_equations(item: Item, rng: Random) -> Problem | None:
    """Undo the added number, then the factor."""
    equation = item["metadata"]["equation"]
    match = EQUATION.fullmatch(equation)
    if match is None:
        return None
    factor, name, sign, shift, right = match.groups()
    undo = "-" if sign == "+" else "+"
    middle = int(right) - int(shift) if sign == "+" else int(right) + int(shift)
    if int(right) < 0:
        return None
    left = f"{factor}*{name}" if factor else name
    steps = [
        Step(f"{left} = {right} {undo} {shift} = {middle}", f"{undo} {shift} undoes the {sign}")
    ]
    value = middle
    if factor:
        value = middle // int(factor)
        steps.append(
            Step(f"{name} = {middle} / {factor} = {value}", f"dividing undoes the times {factor}")
        )
    with_value = f"{factor} × {value}" if factor else f"{value}"
    return Problem(
        stem=item["question"],
        gold=str(value),
        task=f"find the number {name} that makes {equation} true",
        definitions=(
            "Undo what was done to the letter, the same on both sides.",
            "Both sides stay equal when the same thing is done to both.",
        ),
        plain=(
            f"The letter {name} hides a number, and we walk back to find it.",
            f"Think of {name} as a closed box; we undo each thing until the box is open.",
        ),
        steps=tuple(steps),
        check=f"Put back in, {with_value} {sign} {shift} = {right}, as the equation says.",
        method="Undo the plus or minus first, then any times.",
        form="Give the value of the letter.",
        form_reason=_number_reason(value),
        difficulty=len(steps),
        # The name of the letter and the wording of the request change nothing.
        subject=equation.replace(name, "x"),
    )


def solve_fraction_simplification(item: Item, rng: Random) -> Problem | None:
    """Divide top and bottom by their greatest common divisor."""
    top, bottom = item["metadata"]["numerator"], item["metadata"]["denominator"]
    shared = gcd(top, bottom)
    if top == bottom or shared == 1:
        return None
    small_top, small_bottom = top // shared, bottom // shared
    return Problem(
        stem=f"Simplify the fraction {top}/{bottom} to its lowest terms.",
        gold=f"{small_top}/{small_bottom}",
        task=f"write {top}/{bottom} with the smallest numbers",
        definitions=(
            "A fraction keeps its value when top and bottom are divided by the same number.",
            "Divide top and bottom by the largest number that divides both.",
        ),
        plain=(
            "It is the same piece of pizza, only cut into fewer slices.",
            "We make both numbers smaller in the same way, so the share stays the same.",
        ),
        steps=(
            Step(f"{shared} divides both {top} and {bottom}", "it is their largest shared divisor"),
            Step(f"{top} / {shared} = {small_top}", "the top is divided"),
            Step(f"{bottom} / {shared} = {small_bottom}", "the bottom is divided in the same way"),
        ),
        check=f"Nothing but 1 divides both {small_top} and {small_bottom}, so this is the end.",
        method="Divide top and bottom by their largest shared divisor.",
        form="Write the answer as top/bottom.",
        form_reason="The smaller top and bottom make the new fraction.",
        difficulty=shared,
    )


ARITHMETIC = (
    Family("chain_sum", solve_chain_sum, {"max_terms": 3, "max_digits": 1}),
    Family("products", solve_products, {"max_terms": 3, "max_digits": 1}),
    Family("gcd", solve_gcd, {"min_value": 4, "max_value": 30}),
    Family(
        "leg_counting",
        solve_leg_counting,
        {"min_animals": 2, "max_animals": 3, "max_instances": 6},
    ),
    Family("simple_equations", solve_simple_equations, {"max_terms": 2, "max_value": 9}),
    Family(
        "fraction_simplification",
        solve_fraction_simplification,
        {"max_value": 9, "min_factor": 2, "max_factor": 6, "styles": ("plain",)},
    ),
)
"""The families of this file."""
