"""When what a worker sends arrives: a token takes a second here, a step's KV has two parts."""

from __future__ import annotations

import pytest

from baton.sim.clock import EventLoop, Phase
from baton.sim.link import PART_TOKENS, Link

# at, peer, tokens, computed over
Sent = tuple[float, int, int, float]


def arrivals(*sent: Sent, token_s: float = 1.0) -> list[float]:
    loop = EventLoop()
    link = Link(token_s, 2, loop)
    arrived = [0.0] * len(sent)
    for number, (at, lane, num_tokens, over_s) in enumerate(sent):

        def told(number: int = number) -> None:
            assert not arrived[number], "told once"
            arrived[number] = loop.now

        def send(
            lane: int = lane, tokens: int = num_tokens, over: float = over_s, told: object = told
        ) -> None:
            link.send(lane, tokens, told, over_s=over)  # type: ignore[arg-type]

        loop.at(at, Phase.END, send)
    loop.run()
    return arrived


def test_what_was_computed_layer_by_layer_is_half_sent_when_it_is_complete() -> None:
    assert arrivals((100.0, 1, 20, 40.0)) == [110.0]
    # The first half takes longer than the second one's compute.
    assert arrivals((100.0, 1, 20, 4.0)) == [118.0]
    assert arrivals((100.0, 1, 20, 0.0)) == [120.0]


def test_prompts_of_one_step_go_layer_by_layer() -> None:
    # First halves are ready at 80 and done by 100, so the second ones follow at once.
    assert arrivals((100.0, 1, 20, 40.0), (100.0, 1, 20, 40.0)) == [110.0, 120.0]


def test_one_peer_gets_things_in_order() -> None:
    assert arrivals((0.0, 1, 50, 0.0), (10.0, 1, 5, 0.0)) == [50.0, 55.0]


def test_peers_share_the_wire() -> None:
    token_s = 1.0 / PART_TOKENS
    arrived = arrivals((0.0, 1, 10 * PART_TOKENS, 0.0), (0.5, 2, PART_TOKENS, 0.0), token_s=token_s)
    assert arrived == pytest.approx([11.0, 2.0])


def test_nothing_left_to_send_has_arrived_with_what_went_before() -> None:
    assert arrivals((0.0, 1, 50, 0.0), (10.0, 1, 0, 0.0)) == [50.0, 50.0]
    assert arrivals((3.0, 1, 0, 0.0)) == [3.0]
