"""Families about people and how they belong together."""

from __future__ import annotations

import re
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

SIBLINGS = re.compile(
    r"(?P<her>\w+) has (?:(?P<first>\d+) brothers and she also has )?(?P<girls>\d+) sisters"
    r"(?: and she also has \d+ brothers)?\. How many sisters does (?P<whose>\w+)'s brother have\?"
)
FRIENDS = re.compile(
    r"(?P<her>\w+) has \d+ male friends and she also has (?P<girls>\d+) female friends\. .*"
    r"How many female friends does (?P<him>\w+), a male friend .*"
)


def solve_aiw(item: Item, rng: Random) -> Problem | None:
    """A brother has all the sisters of a girl, and the girl herself."""
    question = item["question"]
    if " 1 " in question:
        # The package writes "1 sisters".
        return None
    match = SIBLINGS.fullmatch(question)
    if match:
        her, girls, kind = match["her"], int(match["girls"]), "sisters"
        if match["whose"] != her:
            # Some items ask for the brother of a boy who has nothing to do with the girl.
            return None
        his = f"{her}'s brother"
        definition = "A brother has the same sisters as the girl, and also the girl herself."
    else:
        match = FRIENDS.fullmatch(question)
        if match is None:
            return None
        her, girls, kind = match["her"], int(match["girls"]), "female friends"
        his = match["him"]
        definition = "He has the same female friends as the girl, and also the girl herself."
    return Problem(
        stem=question,
        gold=str(girls + 1),
        task=f"count the {kind} of {his}",
        definitions=(definition, f"{his} counts the same {kind}, but {her} is one of them too."),
        plain=(
            f"Imagine that {his} points at the girls one by one, and {her} is there as well!",
            f"Draw all the girls on paper, and do not forget to draw {her}.",
        ),
        steps=(
            Step(f"{her} has {girls} {kind}", "the question says so"),
            Step(f"{her} is one more for {his}", f"{her} is a girl too"),
            Step(f"{girls} + 1 = {girls + 1}", f"{her} is added to the others"),
        ),
        check=f"The boys do not matter here, and without {her} there are {girls}.",
        method="Count the girls named and add the girl herself.",
        form="Give one number as the answer.",
        form_reason=f"{girls + 1} is one number and nothing more is asked.",
        difficulty=girls,
    )


# Few and clearly male or female names, so that a small model can learn them.
MALE_NAMES = [
    "James",
    "John",
    "Robert",
    "William",
    "David",
    "Thomas",
    "Peter",
    "Daniel",
    "George",
    "Henry",
]
FEMALE_NAMES = [
    "Mary",
    "Linda",
    "Susan",
    "Sarah",
    "Emma",
    "Anna",
    "Emily",
    "Alice",
    "Lucy",
    "Hannah",
]

# Relation: (male word, female word, what the relation means).
RELATIONS = {
    "spouse": ("husband", "wife", "{a} and {b} are married"),
    "parent": ("father", "mother", "{b} is a child of {a}"),
    "child": ("son", "daughter", "{a} is a child of {b}"),
    "sibling": ("brother", "sister", "{a} and {b} have the same parents"),
    "grandparent": ("grandfather", "grandmother", "{b} is a child of a child of {a}"),
}


def _relation(a: str, b: str, spouses: dict[str, str], parents: dict[str, list[str]]) -> str | None:
    if spouses.get(a) == b:
        return "spouse"
    if a in parents.get(b, []):
        return "parent"
    if b in parents.get(a, []):
        return "child"
    if a in parents and parents[a] == parents.get(b):
        return "sibling"
    if any(a in parents.get(parent, []) for parent in parents.get(b, [])):
        return "grandparent"
    return None


def _read_story(story: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    spouses: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    couple: list[str] = []
    for sentence in story.rstrip(".").split(". "):
        if " is married to " in sentence:
            couple = sentence.split(" is married to ")
            spouses[couple[0]], spouses[couple[1]] = couple[1], couple[0]
        else:
            for child in re.split(r", | and ", sentence.split(" called ")[1]):
                parents[child] = couple
    return spouses, parents


def solve_family_relationships(item: Item, rng: Random) -> Problem | None:
    """Read the relation from the story and choose the male or female word."""
    story = item["question"].split("\n\n")[0]
    a, b = item["metadata"]["person1"], item["metadata"]["person2"]
    spouses, parents = _read_story(story)
    relation = _relation(a, b, spouses, parents)
    if relation is None:
        return None
    female = a in FEMALE_NAMES
    gender, other_gender = ("woman", "man") if female else ("man", "woman")
    right = RELATIONS[relation][female]
    wrong = [(RELATIONS[relation][not female], f"that word is for a {other_gender}")]
    others = [name for name in RELATIONS if name != relation]
    for other in rng.sample(others, 2):
        clash = RELATIONS[other][2].format(a=a, b=b)
        wrong.append((RELATIONS[other][female], f"it would mean that {clash}"))
    choices = lettered(right, wrong, rng)
    best = right_choice(choices)
    steps = [Step(RELATIONS[relation][2].format(a=a, b=b), "the story says so")]
    if relation == "grandparent":
        middle = next(p for p in parents[b] if a in parents.get(p, []))
        steps.insert(0, Step(f"{middle} is a child of {a}", "the story says so"))
        steps[1] = Step(f"{b} is a child of {middle}", "the story says so")
    steps.append(Step(f"{a} is a {gender}, so {a} is the {right}", f"a {right} is a {gender}"))
    steps.append(Step(f"That is option ({best.letter})", f"({best.letter}) says {right}"))
    return Problem(
        stem=f"{story} What is {a} to {b}?",
        gold=best.letter,
        task=f"say what {a} is to {b}",
        definitions=(
            "First find how the two people are linked, then take the word for a man or a woman.",
            "The link comes from the story, and the word depends on the first person.",
        ),
        plain=(
            f"Let us draw the family and look where {a} and {b} stand.",
            "Families are like a tree, and we follow its branches from one to the other.",
        ),
        steps=tuple(steps),
        check=f"We said what {a} is to {b}, and not what {b} is to {a}.",
        method="Find the link in the story, then the word for a man or a woman.",
        form=OPTION_FORM,
        form_reason=option_form_reason(best),
        difficulty=len(parents) + (relation == "grandparent"),
        choices=choices,
    )


LOGIC = (
    Family(
        "aiw",
        solve_aiw,
        # Siblings, friends, and none of the long items about colleagues.
        {"task_type_weights": [0.8, 0.2, 0.0], "max_entities": 9},
    ),
    Family(
        "family_relationships",
        solve_family_relationships,
        {
            "min_family_size": 3,
            "max_family_size": 5,
            "male_names": MALE_NAMES,
            "female_names": FEMALE_NAMES,
        },
        multiple_choice=True,
    ),
)
"""The families of this file."""
