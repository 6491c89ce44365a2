"""Tokenizing only what is new: the earlier turns of a conversation are known by their text.

Tokenizers cut a text at its special tokens before anything else, so what lies between two of them
gets the same tokens wherever it stands. A text is cut before special tokens into segments of some
length, always at the same places however it goes on, and each is looked up; only unknown ones are
tokenized. The result is that of tokenizing the whole, token by token.

Unknown segments that follow each other are tokenized as one text and its tokens cut afterwards: the
library goes through a long text faster than through its parts, since it looks up a word once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from baton.gateway.text.segment_cache import SegmentCache, TokenIds

MIN_SEGMENT_CHARS = 64
"""Shorter ones grow together: a table of crumbs would cost more than it saves."""


class Segment(NamedTuple):
    """A part of a text, and how many places to cut it holds.

    All but a text's head begin with one. A head may get other tokens than the same text elsewhere
    (some tokenizers put a space before it), but nothing elsewhere has its text: no place is there.
    """

    text: str
    num_places: int


class IncrementalEncoder:
    """Text to token ids, with a cache of `max_bytes`; 0 keeps nothing.

    `document` is the tokenizer's own description (tokenizer.json).
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any], max_bytes: int
    ) -> None:
        self._tokenizer = tokenizer
        # With dropout the same text has other tokens each time.
        draws = (document.get("model") or {}).get("dropout")
        self._cache = SegmentCache(max_bytes) if max_bytes and not draws else None
        self._cuts = _Cuts(document)
        self._affixes = _affixes(tokenizer)
        num_ids = _num_ids(tokenizer) if self._cache is not None else 0
        # One object for each number, shared by all that is remembered.
        self._numbers = np.arange(num_ids).astype(object)
        self._is_place = np.zeros(num_ids, bool)
        self._is_place[self._cuts.place_ids if num_ids else []] = True

    def encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Tokens of each text; with `special` those that the tokenizer adds (BOS), too."""
        if self._cache is None or (special and self._affixes is None):
            return self._encode(texts, special)
        before, after = self._affixes if special and self._affixes else ([], [])
        segments = [self._cuts.segments(text) for text in texts]
        known = [self._cache.get_all([s.text for s in of_text]) for of_text in segments]
        self._learn(self._cache, segments, known)
        encoded = []
        for of_text in known:
            ids = list(before)
            for tokens in of_text:
                ids += tokens or ()
            encoded.append(ids + after)
        return encoded

    def _learn(
        self,
        cache: SegmentCache,
        segments: Sequence[Sequence[Segment]],
        known: Sequence[list[TokenIds | None]],
    ) -> None:
        """Tokenize what is missing in `known`, and put it there and into the cache."""
        runs = [
            (slots, [s for _, s in run], [i for i, _ in run])
            for of_text, slots in zip(segments, known, strict=True)
            for is_missing, run in _runs(of_text, slots)
            if is_missing
        ]
        if not runs:
            return
        whole = self._encode(["".join(s.text for s in run) for _, run, _ in runs], False)
        for (slots, run, places), ids in zip(runs, whole, strict=True):
            parts = self._split(run, ids)
            for index, part in zip(places, parts, strict=True):
                slots[index] = part
            cache.put_all(zip([s.text for s in run], parts, strict=True))

    def _split(self, run: Sequence[Segment], ids: list[int]) -> list[TokenIds]:
        """A run's tokens, segment by segment."""
        numbers = np.frombuffer(array("I", ids), np.uint32)
        places = np.flatnonzero(self._is_place[numbers])
        if len(places) != sum(segment.num_places for segment in run):
            # Some place's id stands for other text, too.
            parts = self._encode([segment.text for segment in run], False)
            return [tuple(part) for part in parts]
        shared = self._numbers[numbers].tolist()
        found, start, passed = [], 0, 0
        for segment in run:
            passed += segment.num_places
            end = int(places[passed]) if passed < len(places) else len(shared)
            found.append(tuple(shared[start:end]))
            start = end
        return found

    def _encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        # The batch call releases the GIL, and without offsets it is faster for one text, too.
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in found]


class _Cuts:
    """Where a text may be cut: before a token that the tokenizer finds in the raw text.

    It finds them leftmost first, the longest of those that begin together; so does this pattern.
    One that also takes the space to its left, or asks for the character there, is no place to cut.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        added = document.get("added_tokens") or []
        raw = [t for t in added if not t["normalized"] and t["content"]]
        places = [
            t for t in raw if t["special"] and not t["lstrip"] and not t["content"][0].isspace()
        ]
        self._pattern: re.Pattern[str] | None = None
        self._places = frozenset(t["content"] for t in places)
        self.place_ids = [t["id"] for t in places]
        if places and not any(t["single_word"] for t in added):
            contents = sorted((t["content"] for t in raw), key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, contents)))

    def segments(self, text: str) -> list[Segment]:
        """The parts that make up a text; none of an empty one."""
        if self._pattern is None:
            return [Segment(text, 0)] if text else []
        found: list[Segment] = []
        start, is_head, num_places = 0, True, 0
        for match in self._pattern.finditer(text):
            if match.group() not in self._places:
                continue
            at = match.start()
            if is_head or at - start >= MIN_SEGMENT_CHARS:
                if at > start:
                    found.append(Segment(text[start:at], num_places))
                start, is_head, num_places = at, False, 0
            num_places += 1
        if start < len(text):
            found.append(Segment(text[start:], num_places))
        return found


def _runs(
    segments: Sequence[Segment], known: Sequence[TokenIds | None]
) -> Iterator[tuple[bool, list[tuple[int, Segment]]]]:
    """Neighbours that are all missing, or all known, with their indices."""
    for is_missing, run in groupby(enumerate(segments), lambda item: known[item[0]] is None):
        yield is_missing, list(run)


def _affixes(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]] | None:
    """The special tokens that go before and behind every text; None if it is not that simple."""
    found = {_affix(tokenizer, probe) for probe in ("a", "b c", "1 2 3\n")}
    if len(found) != 1 or None in found:
        return None
    before, after = found.pop() or ((), ())
    return list(before), list(after)


def _affix(
    tokenizer: tokenizers.Tokenizer, probe: str
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    bare = tokenizer.encode(probe, add_special_tokens=False).ids
    whole = tokenizer.encode(probe, add_special_tokens=True).ids
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return tuple(whole[:at]), tuple(whole[at + len(bare) :])
    return None


def _num_ids(tokenizer: tokenizers.Tokenizer) -> int:
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
