"""Transfer hides behind compute: what is exposed is the last chunk's share, or of it a layer group.

In virtual time, over a link that needs as long for a chunk as its compute.
"""

from __future__ import annotations

import pytest

from baton.engine.mock import BYTES_PER_TOKEN
from baton.transfer.base import HandoffTiming
from fakes.engines import alone, prompt, request
from fakes.virtual_handoff import hand_over

CHUNK_TOKENS = 64
CHUNK_S = 0.1
REQUEST = request(prompt(4 * CHUNK_TOKENS), max_tokens=4)


def run(layer_groups: int, *, chunk_transfer_s: float = CHUNK_S) -> HandoffTiming:
    timing, tokens = hand_over(
        REQUEST,
        layer_groups=layer_groups,
        chunk_tokens=CHUNK_TOKENS,
        chunk_s=CHUNK_S,
        chunk_transfer_s=chunk_transfer_s,
        latency_s=0.001,
    )
    assert tokens == TOKENS, "the answer does not depend on how its KV travels"
    assert timing.num_bytes == 4 * CHUNK_TOKENS * BYTES_PER_TOKEN
    assert timing.transfer_s == pytest.approx(4 * chunk_transfer_s)
    return timing


TOKENS = alone([REQUEST])[0][0]


def test_exposed_time_is_that_of_the_last_chunk() -> None:
    timing = run(1)
    share = timing.transfer_s / 4
    assert timing.exposed_s <= 1.15 * share


def test_layer_groups_hide_most_of_the_last_chunk() -> None:
    timing = run(4)
    share = timing.transfer_s / 4
    assert timing.exposed_s <= 0.4 * share


@pytest.mark.parametrize(("layer_groups", "hidden"), [(1, 3 / 4), (2, 7 / 8), (4, 15 / 16)])
def test_hidden_bytes_are_those_that_landed_before_the_last_token(
    layer_groups: int, hidden: float
) -> None:
    timing = run(layer_groups, chunk_transfer_s=0.99 * CHUNK_S)
    assert timing.hidden_bytes == hidden * timing.num_bytes


@pytest.mark.parametrize("chunk_transfer_s", [0.025, 0.05, 0.2])
def test_more_layer_groups_never_expose_more(chunk_transfer_s: float) -> None:
    exposed = [run(g, chunk_transfer_s=chunk_transfer_s).exposed_s for g in (1, 2, 4)]
    assert exposed == sorted(exposed, reverse=True)
    assert exposed[2] < exposed[0]
