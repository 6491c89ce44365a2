"""What a source tells in the midst of a step, and what may be asked of the engine then."""

from __future__ import annotations

import pytest

from baton.engine.outputs import StepOutput
from fakes.engines import Driver, alone, prompt, request

KEY = ("s", 0)
OTHER = ("s", 1)


def told(driver: Driver) -> tuple[list[StepOutput], StepOutput]:
    """A step: what it said early, and its own output."""
    early: list[StepOutput] = []
    out = driver.engine.step(early.append)
    return early, out


def test_offer_comes_before_the_compute() -> None:
    driver = Driver()
    driver.add(KEY, request(prompt(10)), handoff=True)
    times: list[float] = []
    out = driver.engine.step(lambda output: times.append(driver.clock.now))
    assert times == [0.0] and driver.clock.now > 0
    assert not out.offers, "said once"


@pytest.mark.parametrize("layer_groups", [2, 3, 4, 9])
def test_every_chunk_is_announced_part_by_part_as_its_layers_are_computed(
    layer_groups: int,
) -> None:
    num_parts = min(4, layer_groups)
    driver = Driver(max_batch_tokens=8, layer_groups=layer_groups, mock_prefill_us_per_token=1000.0)
    driver.add(KEY, request(prompt(14)), handoff=True)
    seen = []
    for _ in range(2):
        times: list[float] = []
        ready = driver.step(lambda output, to=times: to.append(driver.clock.now)).ready
        seen.append([(r.first_index, len(r.block_ids[0]), r.part, r.num_parts) for r in ready])
        assert [r.done for r in ready[:-1]] == [False] * (num_parts - 1)
        assert len({r.block_ids for r in ready}) == 1
        assert sorted(times) == times and len(set(times)) == len(times)
    assert seen == [[((first,), 2, p, num_parts) for p in range(num_parts)] for first in (0, 2)]


def test_prefix_hits_are_announced_before_the_compute() -> None:
    driver = Driver(layer_groups=4)
    driver.add(KEY, request(prompt(12)), handoff=True)
    driver.step()
    driver.engine.release(KEY)
    driver.add(OTHER, request([*prompt(12), 7, 8, 9]), handoff=True)
    early, out = told(driver)
    (hit,) = early[0].ready
    assert (hit.first_index, len(hit.block_ids[0]), hit.num_parts) == ((0,), 3, 1)
    parts = [ready for output in early[1:] for ready in output.ready] + out.ready
    assert [(r.first_index, r.part) for r in parts] == [((3,), p) for p in range(4)]


def test_steps_without_a_source_tell_nothing() -> None:
    driver = Driver(layer_groups=4)
    driver.add(KEY, request(prompt(10)))
    while driver.engine.has_work:
        assert told(driver)[0] == []


def test_aborted_in_the_midst_of_a_step_it_ends_with_the_step() -> None:
    driver = Driver(layer_groups=4)
    plain = request(prompt(9), max_tokens=5)
    driver.add(KEY, request(prompt(10)), handoff=True)
    driver.add(OTHER, plain)

    def abort_all(output: StepOutput) -> None:
        driver.engine.abort(KEY)
        driver.engine.release(KEY)
        driver.engine.abort(OTHER)

    driver.step(abort_all)
    assert not driver.engine.has_work
    driver.assert_all_free()
    driver.add(("s", 2), plain)
    driver.run()
    assert driver.answers(("s", 2)) == alone([plain])[0]


def test_work_that_comes_while_nothing_can_run_is_done_in_the_next_step() -> None:
    driver = Driver(kv_blocks=8, max_ungranted_share=0.01, layer_groups=4)
    driver.add(KEY, request(prompt(16)), handoff=True)
    driver.step()
    driver.add(OTHER, request(prompt(12, seed=1)), handoff=True)
    # The second prompt waits for a grant: its offer is all that this step brings.
    driver.step(lambda output: driver.engine.grant(OTHER))
    assert driver.engine.has_work
