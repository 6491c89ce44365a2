"""The hash chain: fixed values, since gateways and workers of different builds must agree."""

from __future__ import annotations

import hashlib
import struct

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from baton.core.block_hash import HASH_BYTES, KeyChain, extend_hashes, index_keys, root_hash

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=60)
sizes = st.integers(1, 17)


def by_the_book(parent: bytes, token_ids: list[int], block_size: int) -> list[bytes]:
    """blake2b-128 over (parent, token ids as uint32 little-endian), block by block."""
    hashes = []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        block = token_ids[start : start + block_size]
        raw = parent + struct.pack(f"<{block_size}I", *block)
        parent = hashlib.blake2b(raw, digest_size=16).digest()
        hashes.append(parent)
    return hashes


def test_known_values_do_not_change() -> None:
    root = root_hash("digest")
    assert root.hex() == "f441bae06027d9ec813f2c4d5d74de17"
    first, second = extend_hashes(root, range(32), 16)
    assert (first.hex(), second.hex()) == (
        "1e14b8d1f498c04cd9a0a122ba7de9e2",
        "883b6afe3a345e89c4f2d1f27d45428b",
    )


@given(tokens, sizes)
def test_chain_is_that_of_the_definition(token_ids: list[int], size: int) -> None:
    root = root_hash("d")
    assert extend_hashes(root, token_ids, size) == by_the_book(root, token_ids, size)


@given(tokens, sizes, st.integers(0, 5))
def test_chain_can_be_extended_block_by_block(token_ids: list[int], size: int, blocks: int) -> None:
    root = root_hash("d")
    whole = extend_hashes(root, token_ids, size)
    head = extend_hashes(root, token_ids[: blocks * size], size)
    parent = head[-1] if head else root
    assert head + extend_hashes(parent, token_ids[len(head) * size :], size) == whole


@given(tokens, st.integers(0, 59), sizes)
def test_a_changed_token_changes_its_block_and_all_after(
    token_ids: list[int], where: int, size: int
) -> None:
    if not token_ids:
        return
    where %= len(token_ids)
    changed = list(token_ids)
    changed[where] ^= 1
    root = root_hash("d")
    pairs = zip(
        extend_hashes(root, token_ids, size), extend_hashes(root, changed, size), strict=True
    )
    for index, (one, other) in enumerate(pairs):
        assert (one == other) == (index < where // size)


def test_lists_tuples_and_arrays_hash_alike() -> None:
    root = root_hash("d")
    ids = [1, 2, 3, 511, 7, 9]
    expected = extend_hashes(root, ids, 2)
    assert extend_hashes(root, tuple(ids), 2) == expected
    assert extend_hashes(root, np.array(ids, dtype=np.int32), 2) == expected
    assert extend_hashes(root, np.array(ids, dtype=np.int64), 2) == expected


def test_root_covers_every_field_and_none_can_pose_as_another() -> None:
    roots = [
        root_hash("d"),
        root_hash("e"),
        root_hash("d", tenant_salt="t"),
        root_hash("d", lora_id="t"),
        root_hash("d", lora_revision="t"),
        root_hash("dt"),
        root_hash("d", tenant_salt="a", lora_id="b"),
        root_hash("d", tenant_salt="ab"),
        root_hash("d", lora_id="ab"),
    ]
    assert len(set(roots)) == len(roots)
    assert all(len(root) == HASH_BYTES for root in roots)


@given(tokens, sizes)
def test_index_keys_are_the_first_half_of_each_hash(token_ids: list[int], size: int) -> None:
    hashes = extend_hashes(root_hash("d"), token_ids, size)
    expected = [int.from_bytes(block_hash[:8], "little") for block_hash in hashes]
    assert index_keys(hashes).tolist() == expected
    assert index_keys(b"".join(hashes)).tolist() == expected


def test_no_index_key_is_zero() -> None:
    assert index_keys([bytes(16), bytes(8) + bytes([7] * 8)]).tolist() == [1, 1]


@given(st.lists(tokens, max_size=6), sizes)
def test_growing_sequence_has_the_keys_of_the_whole(pieces: list[list[int]], size: int) -> None:
    chain = KeyChain(root_hash("d"), size)
    whole: list[int] = []
    for piece in pieces:
        chain.extend(piece)
        whole += piece
        expected = index_keys(extend_hashes(root_hash("d"), whole, size))
        assert chain.keys.tolist() == expected.tolist()
        assert chain.num_tokens == len(whole)
