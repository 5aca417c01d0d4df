"""Families about letters, words and lists."""

from __future__ import annotations

from random import Random

from orca.sample.families_base import Family, Item, Problem, Step


def solve_spell_backward(item: Item, rng: Random) -> Problem | None:
    """Name the letters one by one, then read them from the end."""
    word = item["metadata"]["word"]
    if not (word.isascii() and word.islower()):
        return None
    letters, turned = ", ".join(word), ", ".join(reversed(word))
    backward = word[::-1]
    return Problem(
        stem=f"Spell this word backward (example: sun -> nus): {word}",
        gold=backward,
        task=f"spell {word} from its last letter to its first",
        definitions=(
            "Backward means that the last letter comes first and the first letter comes last.",
            "To spell backward, read the letters from the end to the start.",
        ),
        plain=(
            "Think of the letters as train cars, and the train now drives the other way.",
            "We read the letters from the end, like walking home the way we came.",
        ),
        steps=(
            Step(f"The letters of {word} are {letters}", "this is how the word is spelled"),
            Step(f"From the end they are {turned}", f"the last letter is {word[-1]}"),
        ),
        check=f"The word and the answer both have {len(word)} letters.",
        method="Name the letters, then read them from the end.",
        form="Write the letters as one word.",
        form_reason="The letters are joined without spaces.",
        difficulty=len(word),
    )


def solve_letter_counting(item: Item, rng: Random) -> Problem | None:
    """Spell each word, count in it and keep a running total."""
    letter, span = item["metadata"]["target_letter"], item["metadata"]["span"]
    if not all(word.isascii() and word.isalpha() for word in span) or sum(map(len, span)) > 18:
        return None
    if any(len(word) == 1 and word.lower() not in "ai" for word in span):
        # What is left of a cut "Smith's".
        return None
    steps = []
    total = 0
    for word in span:
        count = word.lower().count(letter)
        total += count
        reason = f"{word} has {count} {letter}" if count else f"{word} has no {letter}"
        steps.append(Step(f"{'-'.join(word.lower())}: {count}, total {total}", reason))
    return Problem(
        stem=f'How many times does the letter "{letter}" appear in the text: "{" ".join(span)}"?',
        gold=str(total),
        task=f'count the letter "{letter}" in the text',
        definitions=(
            "Spell each word, count the letter in it and keep a total.",
            "The total is the sum of what each word has, with capital and small letters alike.",
        ),
        plain=(
            f"Let us hunt for the letter {letter} and put up a finger each time we see it.",
            f"We look at one word after the other and count every {letter} we meet.",
        ),
        steps=tuple(steps),
        check=f"The text has {len(span)} words and each was read once.",
        method="Spell every word and keep a total.",
        form="Give one number as the answer.",
        form_reason=f"{total} is one number and nothing more is asked.",
        difficulty=sum(map(len, span)),
    )


def _clean(words: list[str], longest: int) -> bool:
    lower = [word.lower() for word in words]
    return len(set(lower)) == len(words) and all(
        word.isascii() and word.isalpha() and len(word) <= longest for word in words
    )


def solve_word_sequence_reversal(item: Item, rng: Random) -> Problem | None:
    """Number the words, then take the numbers from the end."""
    words = item["metadata"]["words"]
    if not _clean(words, longest=8):
        return None
    numbered = [f"{place} {word}" for place, word in enumerate(words, start=1)]
    gold = ", ".join(reversed(words))
    return Problem(
        stem="Reverse this list of words. Answer with a comma-separated list: " + ", ".join(words),
        gold=gold,
        task="write the words in the opposite order",
        definitions=(
            "To reverse a list, start with its last word and end with its first.",
            "Reversing changes the order of the words but not the words.",
        ),
        plain=(
            "The words stand in a line, and now the last one in line goes first.",
            "It is like reading your toys from right to left.",
        ),
        steps=(
            Step(f"The places are {', '.join(numbered)}", "each word gets its place"),
            Step(
                f"From the end they are {', '.join(reversed(numbered))}",
                "the last place comes first",
            ),
        ),
        check=f"All {len(words)} words are there, and {words[0]} is now the last.",
        method="Number the words, then list them from the last number.",
        form="Separate the words with commas.",
        form_reason="The same words stand there with commas between them.",
        difficulty=len(words),
    )


def solve_word_sorting(item: Item, rng: Random) -> Problem | None:
    """Sort by the first letters, which all differ."""
    words, direction = item["metadata"]["transformed_words"], item["metadata"]["direction"]
    if not _clean(words, longest=7) or len({word[0] for word in words}) < len(words):
        return None
    if not all(word.islower() for word in words):
        # Capital letters come first in the package's order, which is a puzzle of its own.
        return None
    ordered = sorted(words, reverse=direction == "descending")
    toward = "a to z" if direction == "ascending" else "z to a"
    firsts = ", ".join(word[0] for word in words)
    in_order = ", ".join(word[0] for word in ordered)
    return Problem(
        stem=f"Sort these words in {direction} order and return them as a comma-separated list: "
        + ", ".join(words),
        gold=", ".join(ordered),
        task=f"put the words in {direction} order",
        definitions=(
            f"{direction.capitalize()} order goes from {toward}.",
            f"Words in {direction} order are lined up by their first letters from {toward}.",
        ),
        plain=(
            "Sing the alphabet song and see which first letter comes when.",
            "We line the words up like children in a row, by their first letter.",
        ),
        steps=(
            Step(f"The first letters are {firsts}", "the first letter of each word decides"),
            Step(f"From {toward} they are {in_order}", f"that is {direction} order"),
        ),
        check=f"All {len(words)} words are there, from {ordered[0]} to {ordered[-1]}.",
        method="Compare the first letters and line them up.",
        form="Separate the words with commas.",
        form_reason="Each word stands in its place with commas between.",
        difficulty=len(words),
    )


def solve_number_filtering(item: Item, rng: Random) -> Problem | None:
    """Compare each number with the limit and keep or remove it."""
    metadata = item["metadata"]
    limit = int(metadata["filter_value"])
    action, direction = metadata["operation"].split("_")
    numbers = metadata["original_numbers"]
    if len(set(numbers)) < len(numbers):
        return None
    kept, steps = [], []
    for number in numbers:
        matches = int(number) > limit if direction == "larger" else int(number) < limit
        stays = matches == (action == "keep")
        verb = "keep" if stays else "remove"
        relation = "=" if int(number) == limit else "<" if int(number) < limit else ">"
        reason = f"we {action} what is {direction} than {limit}"
        steps.append(Step(f"{number} {relation} {limit}: {verb}", reason))
        if stays:
            kept.append(number)
    if not kept:
        return None
    return Problem(
        stem=f"{action.capitalize()} all numbers {direction} than {limit} in this list: {numbers}\n"
        "Return the new list in the same format.",
        gold=str(kept),
        task=f"{action} the numbers that are {direction} than {limit}",
        definitions=(
            f"Compare each number with {limit}, and {action} it if it is {direction}.",
            f"A number that is {direction} than {limit} is one to {action}.",
        ),
        plain=(
            f"Each number knocks at the door, and we ask: are you {direction} than {limit}?",
            f"We look at one number at a time and ask if it is {direction} than {limit}.",
        ),
        steps=tuple(steps),
        check=f"Of {len(numbers)} numbers, {len(kept)} stay in the list.",
        method=f"Compare every number with {limit}.",
        form="Return a list in the same format.",
        form_reason="The numbers keep their order, their quotes and the square brackets.",
        difficulty=len(numbers),
    )


TEXT = (
    Family("spell_backward", solve_spell_backward, {"max_word_len": 5}),
    Family("letter_counting", solve_letter_counting, {"min_words": 2, "max_words": 4}),
    Family("word_sequence_reversal", solve_word_sequence_reversal, {"max_words": 4}),
    Family(
        "word_sorting",
        solve_word_sorting,
        {"max_words": 4, "max_word_length": 7},
    ),
    Family(
        "number_filtering",
        solve_number_filtering,
        {
            "min_numbers": 3,
            "max_numbers": 4,
            "max_decimals": 0,
            "min_value": 1,
            "max_value": 30,
        },
    ),
)
"""The families of this file."""
