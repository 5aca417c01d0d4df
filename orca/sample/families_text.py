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


TEXT = (
    Family("spell_backward", solve_spell_backward, {"max_word_len": 4}),
    Family("letter_counting", solve_letter_counting, {"min_words": 2, "max_words": 4}),
    Family("word_sequence_reversal", solve_word_sequence_reversal, {"max_words": 4}),
)
"""The families of this file."""
