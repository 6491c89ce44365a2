"""What policies are told of a request's cached blocks, and how little is hashed for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from baton.core import block_hash
from baton.core.block_hash import extend_hashes, index_keys, root_hash
from baton.gateway.workers.prefix_lookup import HashScopes, PrefixLookup
from baton.gateway.workers.prompt_hashes import HashScope, PromptHashes
from baton.router.pool import Pool
from baton.router.prefix_index import IndexTier, PrefixIndex
from fakes.token_plane import make_request

OLD, NEW = HashScope("old", 4), HashScope("new", 4)


def keys(scope: HashScope, tokens: list[int], **identity: str) -> Any:
    root = root_hash(scope.digest, **identity)
    return index_keys(extend_hashes(root, tokens, scope.block_size))


class Scene:
    """Row 1 is of an old digest, rows 2 and 5 of a new one."""

    def __init__(self) -> None:
        self.index, self.scopes, self.pool = PrefixIndex(), HashScopes(), Pool()
        self.now = 50.0
        self.lookup = PrefixLookup(self.index, self.scopes, self.pool, lambda: self.now)
        for row, scope in ((1, OLD), (2, NEW), (5, NEW)):
            self.scopes.add(row, "m", scope)

    def device(self, hashes: PromptHashes, output: tuple[int, ...] = ()) -> list[int]:
        found = self.lookup.overlap("m", hashes, output)
        assert found is not None
        assert found.best == found.device.max(initial=0)
        return found.device.tolist()


def test_workers_of_both_digests_are_found_while_a_pool_is_rolled() -> None:
    scene = Scene()
    tokens = list(range(100, 121))
    scene.index.store(1, IndexTier.DEVICE, keys(OLD, tokens))
    scene.index.store(2, IndexTier.DEVICE, keys(NEW, tokens[:12]))
    assert scene.device(PromptHashes(tokens)) == [0, 5, 3, 0, 0, 0, 0, 0]
    scene.scopes.remove(1)
    assert scene.device(PromptHashes(tokens)) == [0, 0, 3, 0, 0, 0, 0, 0]
    scene.scopes.remove(2)
    scene.scopes.remove(5)
    assert scene.lookup.overlap("m", PromptHashes(tokens)) is None
    assert scene.lookup.overlap("other", PromptHashes(tokens)) is None


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, 0), (4, 0), (5, 1), (8, 1), (9, 2)])
def test_one_token_is_left_to_compute(num_tokens: int, expected: int) -> None:
    scene = Scene()
    tokens = list(range(20))
    scene.index.store(2, IndexTier.DEVICE, keys(NEW, tokens))
    assert scene.device(PromptHashes(tokens[:num_tokens]))[2] == expected


def test_tenants_and_adapters_see_their_own_blocks_only() -> None:
    scene = Scene()
    tokens = list(range(21))
    identity = {"tenant_salt": "t", "lora_id": "l", "lora_revision": "r"}
    scene.index.store(2, IndexTier.DEVICE, keys(NEW, tokens, **identity))
    assert scene.device(PromptHashes(tokens, "t", "l", "r"))[2] == 5
    for other in (("u", "l", "r"), ("t", "x", "r"), ("t", "l", "x"), ("", "", "")):
        assert scene.device(PromptHashes(tokens, *other))[2] == 0


def test_replay_counts_what_was_generated_and_hashes_only_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    scene.scopes.remove(1)
    tokens = list(range(30))
    scene.index.store(2, IndexTier.DEVICE, keys(NEW, tokens))
    counts: list[int] = []
    chain = block_hash._chain

    def counted(parent: bytes, raw: bytes, block_bytes: int) -> list[bytes]:
        made = chain(parent, raw, block_bytes)
        counts.append(len(made))
        return made

    monkeypatch.setattr(block_hash, "_chain", counted)
    request = replace(make_request(), prompt=tuple(tokens[:18]))
    hashes = PromptHashes.of(request)
    for _ in range(3):
        assert scene.device(hashes)[2] == 4
    assert scene.device(hashes, tuple(tokens[18:25]))[2] == 6
    assert scene.device(hashes, tuple(tokens[18:30]))[2] == 7
    assert scene.device(hashes)[2] == 4
    assert counts == [4, 2, 1]


def test_placed_prompt_is_expected_on_its_worker() -> None:
    scene = Scene()
    tokens = list(range(21))
    scene.lookup.placed(5, PromptHashes(tokens[:17]), tuple(tokens[17:]))
    # One that is not indexed has no way to confirm it.
    scene.lookup.placed(0, PromptHashes(tokens))
    assert scene.device(PromptHashes([*tokens[:8], 9, 9, 9, 9, 9])) == [0, 0, 0, 0, 0, 2, 0, 0]
    assert scene.device(PromptHashes(tokens))[5] == 5
    scene.now += 60
    assert scene.device(PromptHashes(tokens)) == [0] * 8
