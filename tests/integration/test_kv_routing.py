"""Conversations find the worker that has them cached: real processes, the default policy."""

from __future__ import annotations

import httpx

from fakes.deployment import Deployment, deployment, wait_for

BLOCK = 16
MOCK = {
    "BATON_ENGINE__KIND": "mock",
    "BATON_ENGINE__MOCK_STEP_MS": "1",
    "BATON_ENGINE__MOCK_PREFILL_US_PER_TOKEN": "50",
    "BATON_ENGINE__KV_BLOCKS": "2000",
}


def tokens(count: int, seed: int) -> list[int]:
    return [(100 * seed + 13 * j + seed * j * j) % 2000 + 10 for j in range(count)]


def ask(running: Deployment, prompt: list[int]) -> int:
    """How many of the prompt's tokens were cached."""
    body = {"model": "baton-tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    cached: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


def blocks_on_devices(running: Deployment) -> dict[str, float]:
    """What the gateway's index holds, by worker."""
    text = httpx.get(f"{running.url}/metrics", timeout=10).text
    return {
        line.partition('worker="')[2].partition('"')[0]: float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("baton_indexed_blocks") and 'tier="device"' in line
    }


def test_each_turn_goes_where_the_turns_before_are_cached() -> None:
    with deployment(environment=MOCK) as running:
        running.start_workers(any_=3)
        chats = {seed: tokens(320, seed) for seed in range(6)}
        for prompt in chats.values():
            assert ask(running, prompt) == 0
        # 324 tokens less the last one, whose KV nobody has computed: 20 blocks each.
        wait_for("events", lambda: sum(blocks_on_devices(running).values()) == 6 * 20)
        for seed, prompt in chats.items():
            assert ask(running, [*prompt, *tokens(40, 100 + seed)]) == 20 * BLOCK
        assert len(blocks_on_devices(running)) == 3
        # A restarted worker has nothing, and the gateway knows.
        victim = next(worker for worker, count in blocks_on_devices(running).items() if count)
        running.kill(victim)
        wait_for("the loss", lambda: victim not in blocks_on_devices(running))
        running.start_worker(victim, "any")
        wait_for("its successor", lambda: blocks_on_devices(running).get(victim) == 0)
        hits = [ask(running, prompt) for prompt in chats.values()]
        assert 0 in hits and 320 - BLOCK in hits
        assert [ask(running, prompt) for prompt in chats.values()] == [320 - BLOCK] * 6
