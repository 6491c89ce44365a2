"""Texts for training baton-tiny: WordNet's definitions and Python's documentation.

Sources, as packaged by Debian (fetched with apt-get download when not installed):
- wordnet-base 3.0: WordNet licence (use, change, pass on for any purpose; keep the notice)
- python3.11-doc: PSF licence, code examples also 0BSD
"""

from __future__ import annotations

import random
import re
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_POS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
_AVOID = {"god", "sex", "sexual", "kill", "murder", "death", "dead", "gun", "rape", "nazi", "bomb"}


@dataclass(frozen=True)
class Word:
    """A word's most frequent sense."""

    lemma: str
    pos: str
    gloss: str
    examples: tuple[str, ...]
    synonyms: tuple[str, ...]
    count: int
    """How often the sense occurs in WordNet's tagged texts."""


def debian_folder(package: str, installed: str, cache: Path) -> Path:
    """The folder `installed` of a Debian package, unpacked below `cache` when not installed."""
    if Path(installed).is_dir():
        return Path(installed)
    unpacked = cache / package
    if not unpacked.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True)
        (deb,) = cache.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(deb), str(unpacked)], check=True)
    return unpacked / installed.lstrip("/")


def words(folder: Path, limit: int) -> list[Word]:
    """The `limit` most used words whose definition is short, most used first."""
    counts: dict[tuple[str, str], int] = {}
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, sense, times = line.split()
        lemma, _, rest = key.partition("%")
        if sense == "1" and re.fullmatch("[a-z]{3,}", lemma) and lemma not in _AVOID:
            at = (lemma, _POS[rest[0]])
            counts[at] = max(counts.get(at, 0), int(times))
    index = {pos: _index(folder, pos) for pos in set(_POS.values())}
    data = {pos: (folder / f"data.{pos}").read_bytes() for pos in set(_POS.values())}
    found: dict[str, Word] = {}
    for (lemma, pos), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if lemma in found or (offset := index[pos].get(lemma)) is None:
            continue
        word = _word(lemma, pos, data[pos], offset, count)
        if word is not None:
            found[lemma] = word
        if len(found) == limit:
            break
    return list(found.values())


def _index(folder: Path, pos: str) -> dict[str, int]:
    """Lemma -> offset of its first sense (wndb(5WN))."""
    offsets = {}
    for line in (folder / f"index.{pos}").read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split()
            offsets[fields[0]] = int(fields[-int(fields[2])])
    return offsets


def _word(lemma: str, pos: str, data: bytes, offset: int, count: int) -> Word | None:
    line = data[offset : data.index(b"\n", offset)].decode()
    head, _, text = line.partition(" | ")
    fields = head.split()
    lemmas = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
    if lemma not in lemmas:  # a name, such as Boston
        return None
    synonyms = tuple(s for s in lemmas if s != lemma and s.isalpha() and s.islower())
    examples = tuple(e for e in re.findall(r'"([^"]{16,80})"', text) if e.count(" ") >= 3)
    gloss = re.sub(r"\([^)]*\)", "", text.split('"')[0]).split(";")[0]
    gloss = " ".join(gloss.split()).strip(" :,.")
    if pos == "verb" and re.search(r" (of|for|to|from|with|by|in|on|at|into|upon|about)$", gloss):
        gloss += " something"
    if not 8 <= len(gloss) <= 90 or not gloss.isascii():
        return None
    return Word(lemma, pos, gloss, examples, synonyms, count)


def ask_word(word: Word, rng: random.Random) -> tuple[str, str]:
    """A question about a word, and the answer."""
    a = "an" if word.lemma[0] in "aeiou" else "a"
    countable = word.pos == "noun" and re.match("(an?|any|one|someone) ", word.gloss)
    name = f"{a} {word.lemma}" if countable else word.lemma
    kind = rng.random()
    asked = [
        f"What does {word.lemma} mean?",
        f"Define {word.lemma}.",
        f"Explain the word {word.lemma}.",
    ]
    if kind < 0.12 and word.examples:
        answer = _sentence(rng.choice(word.examples))
        asked = [
            f"Use the word {word.lemma} in a sentence.",
            f"Give me a sentence with {word.lemma}.",
        ]
    elif kind < 0.2 and word.synonyms:
        answer = f"Another word for {word.lemma} is {word.synonyms[0]}."
        asked = [f"What is another word for {word.lemma}?", f"Give me a synonym for {word.lemma}."]
    elif word.pos == "verb":
        answer = f"To {word.lemma} means to {word.gloss}."
    elif word.pos == "noun":
        answer = f"{name[0].upper()}{name[1:]} is {word.gloss}."
        asked += [f"What is {name}?"] * 4
    else:
        answer = f"{word.lemma.capitalize()} means {word.gloss}."
    return rng.choice(asked), answer


def plain_words(chosen: list[Word]) -> list[str]:
    """WordNet's example sentences, ten to a text."""
    sentences = [_sentence(e) for word in chosen for e in word.examples]
    return [" ".join(sentences[i : i + 10]) for i in range(0, len(sentences), 10)]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def python_texts(sources: Path) -> list[str]:
    """Prose of the tutorial, FAQ, how-tos and library reference: a text per file section."""
    texts = []
    for part in ("tutorial", "faq", "howto", "library", "reference"):
        for file in sorted((sources / part).glob("*.rst.txt")):
            paragraphs = [p for p in _paragraphs(file.read_text()) if len(p) > 60]
            texts += ["\n\n".join(paragraphs[i : i + 4]) for i in range(0, len(paragraphs), 4)]
    return texts


def python_questions(sources: Path) -> list[tuple[str, str]]:
    """Questions that the glossary, the FAQ, and the library reference answer."""
    pairs = []
    glossary = (sources / "glossary.rst.txt").read_text()
    for term, body in re.findall(r"\n   (\S[^\n]*)\n((?:      [^\n]*\n|\n)+)", glossary):
        answer = _first_sentences(_inline(body), 200)
        if answer and term.isascii() and not term.startswith((".", "`", ">")):
            a = "an" if term[0].lower() in "aeiou" else "a"
            pairs += [
                (f"What is {a} {term} in Python?", answer),
                (f"What does {term} mean?", answer),
            ]
    for file in sorted((sources / "faq").glob("*.rst.txt")):
        for title, body in re.findall(
            r"\n([^\n]+\?)\n-+\n+(.+?)(?:\n\n|\Z)", file.read_text(), re.S
        ):
            if answer := _first_sentences(_inline(body), 240):
                pairs.append((_inline(title), answer))
    for file in sorted((sources / "library").glob("*.rst.txt")):
        text = file.read_text()
        for module, synopsis in re.findall(r"\.\. module:: (\S+)\n +:synopsis: ([^\n]+)", text):
            answer = f"The {module} module: {_inline(synopsis).rstrip('.')}."
            pairs += [
                (f"What does the {module} module do?", answer),
                (f"What is the {module} module?", answer),
            ]
        for name, body in _functions(text):
            if answer := _first_sentences(_inline(body), 160):
                asked = (f"What does {name} do?", f"What does {name}() do in Python?")
                pairs += [(question, answer) for question in asked]
    return pairs


def _functions(rst: str) -> list[tuple[str, str]]:
    """(name, first paragraph) of each documented function and class."""
    found = []
    blocks = re.split(r"\n\s*\n", rst)
    for head, body in pairwise(blocks):
        name = re.match(r"\.\. (?:function|class):: ([A-Za-z][\w.]+)", head)
        if name and re.match(r"   \w", body):
            found.append((name[1], body))
    return found


def _paragraphs(rst: str) -> list[str]:
    """Paragraphs without markup; code, tables, titles and directives are dropped."""
    found = []
    for block in re.split(r"\n\s*\n", rst):
        lines = block.splitlines()
        if not lines or any(re.match(r"\s|\.\.|[=\-~^*#+|>]{2}|:\w+:", line) for line in lines):
            continue
        text = _inline(block)
        if re.match(r"[A-Z]", text) and text.endswith((".", ":", "?")):
            found.append(text.rstrip(":") + ("." if text.endswith(":") else ""))
    return found


def _inline(rst: str) -> str:
    """Running text without roles, links and emphasis; ASCII only."""
    text = re.sub(r":[\w:-]+:`[!~]?([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", rst)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`_+", r"\1", text)
    text = re.sub(r"``?([^`]*)``?_*", r"\1", text)
    text = re.sub(r"\*\*?([^*\n]+)\*\*?", r"\1", text)
    text = text.replace("::", ":").replace("\\", "").replace("|version|", "3")
    return " ".join(text.encode("ascii", "ignore").decode().split())


def _first_sentences(text: str, limit: int) -> str:
    """As many whole sentences as fit `limit` characters; empty when none does."""
    taken = ""
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])", text):
        if len(taken) + len(sentence) > limit or sentence[-1:] not in ".?!":
            break
        taken = f"{taken} {sentence}".strip()
    if re.search(r"[%{}|<>]", taken):
        return ""
    return taken if not taken.startswith(("..", ":")) and len(taken) > 20 else ""
