"""Conversations over real processes: pins, the next turn's handoff, hints, salts, peers' caches.

The embedded model in float64, whole requests over HTTP: what is cached must also be right.
"""

from __future__ import annotations

from typing import Any

import httpx

from fakes.deployment import Deployment, deployment, wait_for

BLOCK = 16
FLAGS = ("--dtype", "float64")


def tokens(count: int, seed: int) -> list[int]:
    return [(100 * seed + 13 * j + seed * j * j) % 2000 + 10 for j in range(count)]


class Answer:
    """Tokens of an answer, and how many of the prompt's were cached."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.tokens: list[int] = document["choices"][0]["token_ids"]
        self.cached: int = document["usage"]["prompt_tokens_details"]["cached_tokens"]


def ask(running: Deployment, prompt: list[int], max_tokens: int = 8, **extra: Any) -> Answer:
    body = {
        "model": "baton-tiny",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **extra,
    }
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return Answer(answer.json())


def prefetch(running: Deployment, prompt: list[int], **extra: Any) -> list[str]:
    """Which workers were told."""
    body = {"model": "baton-tiny", "prompt": prompt, **extra}
    answer = httpx.post(f"{running.url}/v1/baton/prefetch", json=body, timeout=60)
    assert answer.status_code == 202, answer.text
    return [worker["id"] for worker in answer.json()["prompts"][0]["workers"]]


def load(running: Deployment, worker: str) -> dict[str, Any]:
    found = next(w for w in running.workers() if w["id"] == worker)
    return found["load"]  # type: ignore[no-any-return]


def metric(running: Deployment, start: str) -> float:
    """The sum of all series that begin like this."""
    text = httpx.get(f"{running.url}/metrics", timeout=10).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))


def flood(running: Deployment, first_seed: int, count: int = 6) -> None:
    for seed in range(first_seed, first_seed + count):
        ask(running, tokens(200, seed))


def test_pinned_conversations_stay_and_salts_keep_them_apart() -> None:
    with deployment(*FLAGS, "--kv-blocks", "48") as running:
        running.start_workers(any_=1)
        chat, other = tokens(200, 1), tokens(200, 2)
        first = ask(running, chat, cache_ttl=600, cache_salt="a")
        ask(running, other)
        flood(running, 10)
        wait_for("the pin", lambda: load(running, "any-0")["pinned_blocks"] == 12)
        turn = [*chat, *first.tokens, 5, 6, 7]
        # 207 tokens were computed: 12 full blocks.
        kept = ask(running, turn, cache_salt="a")
        assert kept.cached == 12 * BLOCK
        assert ask(running, [*other, 5]).cached == 0
        # The very prompt that is pinned is unknown to others, and computed as a whole.
        before = metric(running, "baton_cached_tokens_total")
        for salt in ({"cache_salt": "b"}, {}):
            stranger = ask(running, turn, **salt)
            assert stranger.cached == 0 and stranger.tokens == kept.tokens
        assert metric(running, "baton_cached_tokens_total") == before
        # Each of them has a cache of its own.
        assert ask(running, turn, cache_salt="b").cached == 13 * BLOCK


def test_pin_ends_with_its_time_and_is_bounded() -> None:
    with deployment(
        *FLAGS, "--kv-blocks", "48", environment={"BATON_ENGINE__MAX_PINNED_SHARE": "0.25"}
    ) as running:
        running.start_workers(any_=1)
        ask(running, tokens(300, 1), cache_ttl=600)
        wait_for("the pin", lambda: load(running, "any-0")["pinned_blocks"] == 12)
        ask(running, tokens(100, 2), cache_ttl=1)
        # The newer pin took the place of the older one's tail, and is over soon.
        wait_for("the end of a pin", lambda: load(running, "any-0")["pinned_blocks"] == 6)
        flood(running, 10)
        assert ask(running, tokens(300, 1)).cached == 6 * BLOCK


def test_next_turn_sends_only_what_is_new() -> None:
    with deployment(*FLAGS) as running:
        running.start_workers(prefill=1, decode=1)
        sent = "baton_handoff_bytes_sum"

        def bytes_of(num_handoffs: int) -> float:
            count = "baton_handoff_bytes_count"
            wait_for("the handoff's report", lambda: metric(running, count) == num_handoffs)
            return metric(running, sent)

        chat = tokens(200, 1)
        first = ask(running, chat, max_tokens=40, cache_ttl=600, cache_salt="a")
        per_block = bytes_of(1) / 13
        turn = [*chat, *first.tokens, *tokens(33, 2)]
        second = ask(running, turn, cache_ttl=600, cache_salt="a")
        new = bytes_of(2) - 13 * per_block
        # 273 tokens take 18 blocks; the decode worker holds the 14 full ones of 239 tokens.
        assert new == 4 * per_block
        # The prefill worker had computed the first prompt only.
        assert second.cached >= 12 * BLOCK
        stranger = ask(running, turn, cache_salt="b")
        assert bytes_of(3) == (13 + 4 + 18) * per_block
        assert stranger.cached == 0 and stranger.tokens == second.tokens
        pinned = [load(running, worker)["pinned_blocks"] for worker in ("prefill-0", "decode-0")]
        assert pinned == [17, 17]


def test_hint_brings_a_prompt_back_to_the_device_before_it_comes() -> None:
    with deployment(*FLAGS, "--kv-blocks", "32", "--host-kv", "64MiB") as running:
        running.start_workers(any_=1)
        chat = tokens(200, 1)
        first = ask(running, chat)
        flood(running, 10)
        promoted = 'baton_promoted_blocks_total{worker="any-0"}'
        before = metric(running, promoted)
        for salt, expected in (({"cache_salt": "b"}, 0), ({}, 12)):
            assert prefetch(running, chat, cache_ttl=600, **salt) == ["any-0"]
            if expected:
                wait_for("the blocks", lambda: metric(running, promoted) - before == 12)
        assert load(running, "any-0")["pinned_blocks"] == 12
        # Pinned, so that what comes in between does not drive it out again.
        flood(running, 30, count=3)
        again = ask(running, chat)
        assert (again.cached, again.tokens) == (12 * BLOCK, first.tokens)
        assert metric(running, promoted) - before == 12


def test_hint_fetches_a_prompt_from_another_workers_cache() -> None:
    with deployment(*FLAGS) as running:
        running.start_workers(any_=2)
        chat = tokens(200, 1)
        first = ask(running, chat, cache_salt="a")
        cached = 'baton_kv_blocks{{state="cached",worker="{}"}}'
        # The gauges of workers follow their reports with some delay.
        wait_for("gauges", lambda: metric(running, 'baton_kv_blocks{state="cached"') > 0)
        owner = next(w for w in ("any-0", "any-1") if metric(running, cached.format(w)))
        other = "any-1" if owner == "any-0" else "any-0"

        def hint(salt: str) -> None:
            """Ties are drawn: until the one that has nothing is told."""
            wait_for(
                "the other worker's turn",
                lambda: (
                    prefetch(running, chat, cache_salt=salt, from_worker=owner, cache_ttl=600)
                    == [other]
                ),
            )

        hint("b")
        hint("a")
        wait_for("the blocks", lambda: load(running, other)["fetched_blocks"] == 12)
        wait_for("the pin", lambda: load(running, other)["pinned_blocks"] == 12)
        running.kill(owner)
        wait_for(
            "the loss",
            lambda: [w["id"] for w in running.workers() if w["state"] == "ready"] == [other],
        )
        again = ask(running, chat, cache_salt="a")
        assert (again.cached, again.tokens) == (12 * BLOCK, first.tokens)
        assert ask(running, chat, cache_salt="b").cached == 0
        bad = httpx.post(
            f"{running.url}/v1/baton/prefetch",
            json={"model": "baton-tiny", "prompt": chat, "from_worker": "nobody"},
            timeout=60,
        )
        assert bad.status_code == 400 and bad.json()["error"]["param"] == "from_worker"
