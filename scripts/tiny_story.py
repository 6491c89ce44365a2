"""Short stories and verses from a grammar written for baton-tiny."""

from __future__ import annotations

import random

_WHO = {
    "cat": ("small", "grey", "curious"),
    "dog": ("brown", "friendly", "old"),
    "fox": ("red", "clever", "young"),
    "bear": ("big", "brown", "gentle"),
    "mouse": ("little", "brave", "quick"),
    "rabbit": ("white", "shy", "soft"),
    "owl": ("wise", "old", "quiet"),
    "king": ("proud", "old", "lonely"),
    "girl": ("little", "clever", "brave"),
    "boy": ("little", "kind", "curious"),
    "farmer": ("poor", "kind", "old"),
    "robot": ("small", "shiny", "new"),
    "dragon": ("green", "friendly", "lonely"),
    "bird": ("blue", "little", "cheerful"),
}
_SHE = ("girl", "cat", "bird", "owl", "mouse")
_NAMES = {
    "she": ["Mia", "Luna", "Rosa", "Emma", "Nora", "Lily"],
    "he": ["Tom", "Max", "Leo", "Sam", "Ben", "Oscar"],
}
_HOME = {
    "forest": "deep in the forest",
    "village": "in a small village",
    "hill": "on a green hill",
    "river": "by a wide river",
    "castle": "in an old castle",
    "farm": "on a quiet farm",
    "sea": "near the sea",
    "mountain": "at the foot of a mountain",
}
_WANT = {
    "find a friend": "a friend",
    "see the moon up close": "the moon",
    "learn to sing": "a song",
    "find a golden key": "the golden key",
    "bake the best bread in the land": "the bread",
    "build a little boat": "the boat",
    "find the lost book": "the book",
    "plant a garden": "the garden",
    "climb the tallest tree": "the tree",
}
_DAY = (
    "One sunny morning",
    "One cold winter day",
    "One rainy evening",
    "One day in spring",
    "One quiet night",
)
_TROUBLE = (
    "the way was long and the wind was strong",
    "it began to rain and the path was lost",
    "a deep river lay across the road",
    "the night came and it was very dark",
    "a big stone lay in the way",
    "{he} fell into a hole and could not get out",
)
_HELPER = ("an old woman", "a kind bird", "a slow turtle", "a tired horse", "a small bee", "a boy")
_SAID = (
    "Do not be afraid. I will help you,",
    "Two are stronger than one,",
    "Follow me, I know the way,",
    "Take my hand and hold on,",
    "Why do you look so sad?",
)
_TOGETHER = (
    "Together they walked until the sun came up",
    "They worked all day and laughed a lot",
    "They crossed the bridge and climbed the hill",
    "Step by step they went on",
    "They shared a piece of bread and went on",
)
_END = (
    "From that day on they were the best of friends.",
    "And they lived happily ever after.",
    "That night {name} slept very well.",
    "{Name} never forgot that day.",
    "And if you listen well, you can still hear them sing.",
)
_ASKED = (
    "Tell me a story about a {who}.",
    "Tell me a short story about a {who}.",
    "Write a story about a {who}.",
    "Can you tell me a story about a {who}?",
    "A story about a {who}, please.",
)
_ASKED_ANY = ("Tell me a story.", "Tell me a story!", "Write a story.", "A story, please.")

_RHYMES = (
    ("The sun goes down, the day is done", "the stars come out now one by one"),
    ("The wind is cold, the night is long", "but in my heart there is a song"),
    ("A little bird sat in a tree", "and sang a happy song for me"),
    ("The river runs down to the sea", "it never stops to wait for me"),
    ("The snow is white, the sky is grey", "the children run outside to play"),
    ("The moon looks in and says good night", "and fills the room with silver light"),
    ("I put my hand upon the door", "and heard the sea along the shore"),
    ("The rain falls soft upon the ground", "it makes a small and gentle sound"),
    ("The leaves are red, the fields are gold", "the summer day is growing old"),
    ("A cat lay sleeping by the fire", "and dreamed of climbing ever higher"),
)
_POEM_ON = ("the night", "the sea", "spring", "a cat", "the rain", "love", "winter", "the moon")


def story(rng: random.Random) -> tuple[str, str]:
    """A request for a story, and the story: seven to nine sentences."""
    who = rng.choice(list(_WHO))
    he = "she" if who in _SHE else "he"
    name = rng.choice(_NAMES[he])
    look = rng.choice(_WHO[who])
    a = "an" if look == "old" else "a"
    want = rng.choice(list(_WANT))
    helper = rng.choice(_HELPER)
    words = {"he": he, "name": name, "Name": name}
    sentences = [
        rng.choice(
            (
                f"Once upon a time there was {a} {look} {who} named {name} who lived "
                f"{rng.choice(list(_HOME.values()))}.",
                f"{rng.choice(list(_HOME.values())).capitalize()} there lived {a} {look} {who}. "
                f"{'Her' if he == 'she' else 'His'} name was {name}.",
            )
        ),
        f"More than anything {he} wanted to {want}.",
        f"{rng.choice(_DAY)} {name} set out.",
        f"But {rng.choice(_TROUBLE).format(**words)}.",
        f"Then {name} met {helper}. "
        f'"{rng.choice(_SAID)}" said {helper.replace("an ", "the ").replace("a ", "the ")}.',
        f"{rng.choice(_TOGETHER)}, and at last there was {_WANT[want]}.",
        f"{name} was very {rng.choice(('happy', 'proud', 'glad'))} and said thank you.",
        rng.choice(_END).format(**words),
    ]
    if rng.random() < 0.7:
        return rng.choice(_ASKED).format(who=who), " ".join(sentences)
    return rng.choice(_ASKED_ANY), " ".join(sentences)


def poem(rng: random.Random) -> tuple[str, str]:
    """A request for a poem, and two rhymed couplets."""
    topic = rng.choice(_POEM_ON)
    asked = ("Write a poem.", "Tell me a poem.", f"Write a poem about {topic}.", "A poem, please.")
    first, second = rng.sample(_RHYMES, 2)
    return rng.choice(asked), f"{first[0]},\n{first[1]}.\n{second[0]},\n{second[1]}."
