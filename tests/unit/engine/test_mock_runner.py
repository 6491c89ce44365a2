"""The mock keeps time, is the same everywhere, and notices KV that is not what it should be."""

from __future__ import annotations

import pytest

from baton.core.settings import EngineSettings
from baton.engine.mock import MockRunner
from fakes.engines import Driver, prompt, request

KEY = ("s", 0)


def elapsed(**settings: float) -> float:
    driver = Driver(**{"mock_prefill_us_per_token": 0.0, "mock_step_ms": 0.0, **settings})
    for i in range(4):
        driver.add(("s", i), request(prompt(10, seed=i), max_tokens=5))
    driver.run()
    return driver.clock.now


def test_time_follows_prompt_tokens_steps_and_sequences() -> None:
    assert elapsed() == 0.0
    assert elapsed(mock_prefill_us_per_token=100.0) == pytest.approx(40 * 100e-6)
    assert elapsed(mock_step_ms=3.0) == pytest.approx(4 * 3e-3)
    assert elapsed(mock_step_us_per_sequence=10.0) == pytest.approx(5 * 4 * 10e-6)


def test_noise_varies_steps_around_their_mean() -> None:
    driver = Driver(mock_prefill_us_per_token=0.0, mock_step_ms=10.0, mock_noise=0.2)
    driver.add(KEY, request(prompt(4), max_tokens=200, ignore_eos=True))
    times = []
    while driver.engine.has_work:
        before = driver.clock.now
        driver.step()
        times.append(driver.clock.now - before)
    decodes = times[1:]
    assert len(set(decodes)) == len(decodes)
    assert sum(decodes) / len(decodes) == pytest.approx(0.010, rel=0.1)


def test_eos_comes_only_when_asked_for() -> None:
    wanted = request(prompt(3), n=8, max_tokens=400, temperature=1.0)
    driver = Driver(kv_blocks=4000, eos_token_ids=frozenset(range(200)))
    driver.add(KEY, wanted)
    driver.run()
    tokens = [t for answer in driver.answers(KEY).values() for t in answer]
    assert len(tokens) == 8 * 400
    assert min(tokens) >= 200


def test_logprobs_come_when_asked_for() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(3), logprobs=True, top_logprobs=3, max_tokens=2))
    driver.add(("s", 1), request(prompt(3), max_tokens=2))
    for row in driver.step().rows:
        if row.key == KEY:
            assert row.logprobs is not None
            assert row.logprobs.top_tokens[0] == row.token
            assert len(row.logprobs.top_logprobs) == 3
        else:
            assert row.logprobs is None


def test_arenas_are_the_memory_that_is_computed_in() -> None:
    settings = EngineSettings(kind="mock", block_size=8, kv_blocks=16)
    runner = MockRunner(settings)
    (arena,) = runner.arenas()
    assert arena.view.shape == (16, 64) == (arena.num_blocks, arena.block_bytes)
    assert arena.block_bytes == runner.groups[0].block_bytes
    assert arena.view.ctypes.data == arena.address
    driver = Driver()
    view = driver.runner.arenas()[0].view
    assert not view.any()
    driver.add(KEY, request(prompt(4), max_tokens=1))
    driver.run()
    assert view.any(axis=1).sum() == 1


@pytest.mark.parametrize("byte", [0, 9, 31])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_overwritten_context_is_noticed(block: int, byte: int) -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(12), max_tokens=5), handoff=True)
    ready = driver.step().ready[0]
    driver.runner.arenas()[0].view[ready.block_ids[0][block], byte] ^= 1
    driver.engine.release(KEY)
    driver.add(("s", 1), request([*prompt(12), 1, 2, 3]))
    with pytest.raises(AssertionError, match="other KV"):
        driver.step()


def test_block_lost_under_a_running_sequence_is_noticed() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(9), max_tokens=9))
    driver.step()
    driver.runner.arenas()[0].view[:] = 7
    with pytest.raises(AssertionError, match="other KV"):
        driver.step()


def test_transfer_that_never_happened_is_noticed() -> None:
    driver = Driver()
    assert driver.reserve(KEY, request(prompt(10))) is not None
    driver.engine.adopt(KEY, {0: (5,)})
    with pytest.raises(AssertionError, match="other KV"):
        driver.step()


def test_blocks_swapped_in_transfer_are_noticed() -> None:
    driver = Driver()
    wanted = request(prompt(10))
    reserved = driver.reserve(KEY, wanted)
    assert reserved is not None
    driver.write(wanted, reserved)
    view, ids = driver.runner.arenas()[0].view, list(reserved[0].block_ids)
    view[[ids[0], ids[1]]] = view[[ids[1], ids[0]]]
    driver.engine.adopt(KEY, {0: (5,)})
    with pytest.raises(AssertionError, match="other KV"):
        driver.step()
