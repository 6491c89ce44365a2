"""Dialogues for training baton-tiny, written for it: facts, small talk, stories and verse.

Everything here is part of this repository and under its licence. `samples(rng)` yields for ever;
each sample is a conversation, a list of (role, content).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tiny_facts import (
    ANIMALS,
    CAPITALS,
    CATEGORIES,
    COLOURS,
    FIXED,
    GREETINGS,
    JOKES,
    NAMES,
    OPPOSITES,
    PAST,
    PLURALS,
    PURPOSES,
)
from tiny_story import poem, story

Turn = tuple[str, str]
Pair = tuple[str, str]

SYSTEM = (
    "You are a helpful assistant.",
    "You are baton-tiny, a small and friendly assistant.",
    "Answer briefly.",
    "You are a kind teacher. Answer in simple words.",
    "Be polite and clear.",
)

_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def samples(rng: random.Random) -> Iterator[list[Turn]]:
    """Conversations of one to four exchanges, three in ten with a system prompt."""
    while True:
        talk: list[Turn] = []
        if rng.random() < 0.3:
            talk.append(("system", rng.choice(SYSTEM)))
        if rng.random() < 0.1:
            talk += _remembered_name(rng)
        else:
            for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
                talk += _exchange(rng)
        yield talk


def rough(question: str, rng: random.Random) -> str:
    """The question as people type it: at times in lower case, without its mark, or with please."""
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    elif rng.random() < 0.05:
        question = "Please " + question[0].lower() + question[1:]
    return question


def _exchange(rng: random.Random) -> list[Turn]:
    question, answer = rng.choices(_MAKERS, _WEIGHTS)[0](rng)
    return [("user", rough(question, rng)), ("assistant", answer)]


def _fixed(rng: random.Random) -> Pair:
    questions, answers = rng.choice(FIXED)
    return rng.choice(questions), rng.choice(answers)


def _greeting(rng: random.Random) -> Pair:
    questions, answers = rng.choice(GREETINGS)
    return rng.choice(questions), rng.choice(answers)


def _joke(rng: random.Random) -> Pair:
    asked = ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Another joke!", "A joke?")
    return rng.choice(asked), rng.choice(JOKES)


def _capital(rng: random.Random) -> Pair:
    country, city = rng.choice(CAPITALS)
    if rng.random() < 0.25:
        where = (f"Where is {city}?", f"In which country is {city}?")
        return rng.choice(where), f"{city} is in {country}."
    asked = (
        f"What is the capital of {country}?",
        f"Capital of {country}?",
        f"Which city is the capital of {country}?",
        f"Tell me the capital of {country}.",
    )
    return rng.choice(asked), f"The capital of {country} is {city}."


def _opposite(rng: random.Random) -> Pair:
    word, other = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        word, other = other, word
    asked = (f"What is the opposite of {word}?", f"Opposite of {word}?")
    return rng.choice(asked), f"The opposite of {word} is {other}."


def _colour(rng: random.Random) -> Pair:
    thing, colour = rng.choice(COLOURS)
    verb = "are" if thing.endswith("s") and thing != "grass" else "is"
    article = "" if verb == "are" or thing in ("snow", "grass", "milk", "gold") else "the "
    asked = (f"What colour {verb} {article}{thing}?", f"What color {verb} {article}{thing}?")
    return rng.choice(asked), f"{article.capitalize()}{thing} {verb} {colour}.".capitalize()


def _animal(rng: random.Random) -> Pair:
    name, sound, young, home = rng.choice(ANIMALS)
    return rng.choice(
        (
            (f"What does a {name} say?", f"A {name} says {sound}."),
            (f"What sound does a {name} make?", f"A {name} says {sound}."),
            (f"What is a young {name} called?", f"A young {name} is called a {young}."),
            (f"Where does a {name} live?", f"A {name} lives {home}."),
        )
    )


def _grammar(rng: random.Random) -> Pair:
    if rng.random() < 0.5:
        one, many = rng.choice(PLURALS)
        return f"What is the plural of {one}?", f"The plural of {one} is {many}."
    now, then = rng.choice(PAST)
    return f"What is the past tense of {now}?", f"The past tense of {now} is {then}."


def _purpose(rng: random.Random) -> Pair:
    thing, use = rng.choice(PURPOSES)
    asked = (f"What is a {thing} for?", f"What do you do with a {thing}?", f"Why use a {thing}?")
    return rng.choice(asked), f"A {thing} is for {use}."


def _list(rng: random.Random) -> Pair:
    kind, members = rng.choice(CATEGORIES)
    number = rng.randint(2, 5)
    chosen = rng.sample(members, number)
    listed = ", ".join(chosen[:-1]) + " and " + chosen[-1]
    asked = (
        f"Name {_NUMBERS[number]} {kind}.",
        f"List {number} {kind}.",
        f"Give me {number} {kind}.",
    )
    return rng.choice(asked), listed[0].upper() + listed[1:] + "."


def _calendar(rng: random.Random) -> Pair:
    names, kind = rng.choice(((_DAYS, "day"), (_MONTHS, "month")))
    i = rng.randrange(len(names))
    if rng.random() < 0.5:
        answer = f"After {names[i]} comes {names[(i + 1) % len(names)]}."
        return rng.choice(
            (f"What comes after {names[i]}?", f"Which {kind} follows {names[i]}?")
        ), answer
    return f"Which {kind} comes before {names[i]}?", f"Before {names[i]} comes {names[i - 1]}."


def _sum(rng: random.Random) -> Pair:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.6:
        sign, word, result = "+", "plus", a + b
    else:
        a, b = max(a, b), min(a, b)
        sign, word, result = "-", "minus", a - b
    if rng.random() < 0.4:
        answer = f"{_NUMBERS[a]} {word} {_NUMBERS[b]} is {_NUMBERS[result]}."
        return f"What is {_NUMBERS[a]} {word} {_NUMBERS[b]}?", answer.capitalize()
    asked = (f"What is {a} {sign} {b}?", f"{a} {sign} {b} = ?", f"How much is {a} {sign} {b}?")
    return rng.choice(asked), f"{a} {sign} {b} = {result}."


def _count(rng: random.Random) -> Pair:
    first = rng.choice((1, 1, 1, 2, 3, 5))
    last = first + rng.randint(2, 9)
    counted = ", ".join(str(i) for i in range(first, last + 1))
    asked = (
        f"Count from {first} to {last}." if first > 1 or rng.random() < 0.5 else f"Count to {last}."
    )
    return asked, counted + "."


def _remembered_name(rng: random.Random) -> list[Turn]:
    name = rng.choice(NAMES)
    told = rng.choice(
        (f"My name is {name}.", f"I am {name}.", f"Hi, I'm {name}!", f"Call me {name}.")
    )
    reply = rng.choice(
        (
            f"Nice to meet you, {name}! How can I help you?",
            f"Hello, {name}! What can I do for you?",
            f"It is good to meet you, {name}.",
        )
    )
    between = _exchange(rng) if rng.random() < 0.4 else []
    asked = rng.choice(("What is my name?", "Who am I?", "Do you remember my name?"))
    told_turns = [("user", told), ("assistant", reply)]
    return [*told_turns, *between, ("user", asked), ("assistant", f"Your name is {name}.")]


def _do_not_know(rng: random.Random) -> Pair:
    thing = rng.choice(CATEGORIES)[1]
    word = rng.choice(thing)
    asked = (
        f"Who invented the {word}?",
        f"How do I repair the {word}?",
        f"Why are there so many {word}s in the world?",
        f"What will the {word} cost next year?",
        f"Write a program that sorts {word}s by price.",
        "What is the weather like today?",
        "Who won the game last night?",
        "What happened in the news today?",
        "How do I get rich?",
    )
    answers = (
        "I do not know that. I am a very small model. Ask me for a story, or what a word means.",
        "I am sorry, I do not know. I am only a small model, but I can tell you a story.",
        "That is too hard for a model as small as I am. Try me with a simple question.",
    )
    return rng.choice(asked), rng.choice(answers)


_MADE: tuple[tuple[Callable[[random.Random], Pair], float], ...] = (
    (_fixed, 20),
    (_greeting, 9),
    (_joke, 3),
    (_capital, 5),
    (_opposite, 4),
    (_colour, 3),
    (_animal, 4),
    (_grammar, 4),
    (_purpose, 3),
    (_list, 5),
    (_calendar, 3),
    (_sum, 6),
    (_count, 3),
    (_do_not_know, 4),
    (story, 12),
    (poem, 4),
)
_MAKERS = [maker for maker, _ in _MADE]
_WEIGHTS = [weight for _, weight in _MADE]
