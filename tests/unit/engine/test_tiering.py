"""Evicted blocks come back from lower tiers, and nobody waits for them longer than is good."""

from __future__ import annotations

import pytest

from baton.core.block_hash import extend_hashes, root_hash
from baton.engine import promotions
from baton.engine.outputs import Tier
from fakes.engines import alone, prompt, request
from fakes.lower_tiers import TieredDriver

BLOCK = 4
# 10 blocks of 4 tokens, the last of which is not looked for: one token is computed.
LONG = request(prompt(40, seed=1), max_tokens=4, temperature=0.0)
OTHER = request(prompt(44, seed=2), max_tokens=4, temperature=0.0)
SHORT = request(prompt(6, seed=3), max_tokens=3, temperature=0.0)
CACHED = 36


def tiered(**options: object) -> TieredDriver:
    return TieredDriver(**{"kv_blocks": 14, "host": 40, **options})  # type: ignore[arg-type]


def evict(driver: TieredDriver) -> None:
    """Have LONG computed, saved and evicted by OTHER."""
    driver.add(("s", 0), LONG)
    driver.settle()
    driver.add(("s", 1), OTHER)
    driver.settle()


def wait_for(driver: TieredDriver, key: tuple[str, int]) -> None:
    """Step until a sequence waits for its blocks."""
    while driver.engine.has_work:
        driver.step()
    assert key not in driver.cached_tokens and driver.tiers.jobs


def test_an_evicted_prefix_is_served_from_the_host_and_counted() -> None:
    driver = tiered()
    evict(driver)
    assert driver.load_of("host").hits == 0
    driver.add(("s", 2), LONG)
    driver.settle()
    assert driver.cached_tokens[("s", 2)] == CACHED
    assert driver.answers(("s", 2)) == driver.answers(("s", 0)) == alone([LONG])[0]
    assert driver.engine.load().promotion_timeouts == 0
    host = driver.load_of("host")
    assert host.hits == driver.engine.load().promotions > 0
    assert host.failures == 0 and host.used_bytes <= host.capacity_bytes
    driver.assert_all_free()


def test_a_prefix_that_left_the_host_is_served_from_the_disk() -> None:
    driver = tiered(host=12, disk=100)
    evict(driver)
    driver.add(("s", 2), LONG)
    driver.settle()
    assert driver.cached_tokens[("s", 2)] == CACHED
    assert driver.load_of("disk").hits > 0
    assert driver.answers(("s", 2)) == alone([LONG])[0]
    driver.assert_all_free()


def test_a_disk_alone_works_through_a_few_slots_of_host_memory() -> None:
    driver = tiered(host=4, disk=100, staging=True)
    evict(driver)
    driver.add(("s", 2), LONG)
    driver.settle()
    assert driver.cached_tokens[("s", 2)] == CACHED
    assert driver.load_of("disk").drops == 0
    assert driver.answers(("s", 2)) == alone([LONG])[0]
    driver.assert_all_free()


def test_two_that_keep_blocks_for_themselves_give_way_to_each_other() -> None:
    driver = tiered()
    evict(driver)
    driver.add(("s", 2), request(prompt(40, seed=7), max_tokens=2))
    driver.settle()
    # Each needs most of the pool, and both get a part of it.
    driver.add(("s", 3), OTHER)
    driver.add(("s", 4), LONG)
    driver.settle()
    assert driver.answers(("s", 3)) == alone([OTHER])[0]
    assert driver.answers(("s", 4)) == alone([LONG])[0]
    driver.assert_all_free()


def test_others_run_while_a_sequence_waits() -> None:
    driver = tiered()
    evict(driver)
    driver.add(("s", 2), LONG)
    driver.add(("s", 3), SHORT)
    wait_for(driver, ("s", 2))
    assert driver.answers(("s", 3)) == alone([SHORT])[0]
    driver.settle()
    assert driver.cached_tokens[("s", 2)] == CACHED


def test_a_sequence_computes_when_it_has_waited_long_enough() -> None:
    driver = tiered()
    evict(driver)
    driver.add(("s", 2), LONG)
    wait_for(driver, ("s", 2))
    due = driver.engine.next_deadline()
    assert due is not None
    driver.clock.advance(due - driver.clock())
    while driver.engine.has_work:
        driver.step()
        driver.engine.check_integrity()
    assert driver.cached_tokens[("s", 2)] < CACHED
    assert driver.engine.load().promotion_timeouts == 1
    assert driver.answers(("s", 2)) == alone([LONG])[0]
    driver.settle()
    driver.assert_all_free()


def test_two_sequences_that_want_the_same_blocks_have_them_promoted_once() -> None:
    driver = tiered(kv_blocks=24)
    evict(driver)
    driver.add(("s", 9), request(prompt(48, seed=5), max_tokens=2))
    driver.settle()
    before = driver.tiers.num_done["load"]
    driver.add(("s", 2), LONG)
    driver.add(("s", 3), LONG)
    driver.settle()
    assert driver.cached_tokens[("s", 2)] == driver.cached_tokens[("s", 3)] == CACHED
    assert driver.tiers.num_done["load"] - before <= CACHED // BLOCK
    driver.assert_all_free()


def test_an_abort_while_promoting_leaves_nothing_behind() -> None:
    driver = tiered(host=12, disk=100)
    evict(driver)
    driver.add(("s", 2), LONG)
    wait_for(driver, ("s", 2))
    driver.engine.abort(("s", 2))
    driver.engine.check_integrity()
    driver.settle()
    driver.assert_all_free()


@pytest.mark.parametrize("tier", ["load", "read"])
def test_a_bad_copy_is_not_served_nor_kept(tier: str) -> None:
    driver = tiered(host=40 if tier == "load" else 12, disk=100)
    evict(driver)
    driver.add(("s", 2), LONG)
    failed = 0
    while driver.engine.has_work or driver.tiers.jobs:
        if driver.engine.has_work:
            driver.step()
        elif failed == 0 and driver.tiers.jobs[0].kind == tier:
            failed += 1
            driver.tiers.finish(fails=True)
        else:
            driver.tiers.finish()
        driver.engine.check_integrity()
    assert failed == 1
    assert sum(load.failures for load in driver.engine.load().tiers) == 1
    assert driver.cached_tokens[("s", 2)] < CACHED
    assert driver.answers(("s", 2)) == alone([LONG])[0]
    driver.assert_all_free()


def test_a_disk_that_hangs_costs_one_wait_and_not_one_for_each_request() -> None:
    driver = tiered(host=4, disk=100, staging=True)
    evict(driver)
    driver.add(("s", 2), LONG)
    wait_for(driver, ("s", 2))
    driver.clock.advance(10.0)
    while driver.engine.has_work:
        driver.step()
    assert driver.engine.load().promotion_timeouts == 1
    # The reads are still under way: nobody asks for more, so nobody waits.
    driver.add(("s", 3), OTHER)
    driver.run()
    assert driver.engine.load().promotion_timeouts == 1
    assert driver.answers(("s", 3)) == alone([OTHER])[0]
    driver.settle()
    driver.assert_all_free()


def test_a_failed_write_pauses_the_disk_and_the_host_goes_on() -> None:
    driver = tiered(host=40, disk=100)
    driver.add(("s", 0), LONG)
    while driver.engine.has_work or driver.tiers.jobs:
        if driver.engine.has_work:
            driver.step()
        else:
            driver.tiers.finish(fails=driver.tiers.jobs[0].kind == "write")
    disk = driver.load_of("disk")
    # Those that were under way together, and none after them.
    assert 0 < disk.failures <= 3 and disk.used_bytes == 0
    assert driver.load_of("host").used_bytes > 0
    driver.clock.advance(60.0)
    driver.add(("s", 1), OTHER)
    driver.settle()
    assert driver.load_of("disk").demotions > 0
    driver.engine.check_integrity()


def test_blocks_evicted_before_they_were_copied_are_counted() -> None:
    driver = tiered(kv_blocks=18)
    driver.add(("s", 0), LONG)
    driver.run()
    assert driver.tiers.jobs, "copies are under way, and hang"
    driver.add(("s", 1), OTHER)
    driver.run()
    assert driver.answers(("s", 1)) == alone([OTHER])[0]
    assert driver.load_of("host").drops > 0
    driver.settle()


def test_a_smaller_share_keeps_blocks_uncopied_until_room_gets_short() -> None:
    driver = tiered(kv_blocks=40, tiers={"demote_share": 0.5})
    driver.add(("s", 0), LONG)
    driver.settle()
    assert driver.load_of("host").demotions == 0
    for i in range(1, 5):
        driver.add(("s", i), request(prompt(40, seed=10 + i), max_tokens=2))
        driver.settle()
    assert driver.load_of("host").demotions > 0
    driver.add(("s", 9), LONG)
    driver.settle()
    assert driver.cached_tokens[("s", 9)] == CACHED


def test_records_of_an_earlier_life_are_found_up_to_the_budget() -> None:
    first = tiered(host=40, disk=100)
    first.add(("s", 0), LONG)
    first.settle()
    chain = extend_hashes(root_hash("digest"), LONG.prompt, BLOCK)
    second = TieredDriver(kv_blocks=14, host=8, disk=9)
    second.tiers.records = first.tiers.records
    # The head was used last.
    second.tiering.found(0, chain)
    assert set(second.tiers.records[0]) <= set(chain[:9])
    second.add(("s", 1), LONG)
    second.settle()
    assert second.cached_tokens[("s", 1)] == CACHED
    assert second.load_of("disk").hits == CACHED // BLOCK
    assert second.answers(("s", 1)) == alone([LONG])[0]


def test_space_of_foreign_records_is_not_used() -> None:
    driver = TieredDriver(kv_blocks=14, host=8, disk=9)
    driver.tiering.all_found(350)
    driver.add(("s", 0), LONG)
    driver.settle()
    assert driver.load_of("disk").capacity_bytes == 500
    assert driver.load_of("disk").used_bytes <= 500


def test_groups_of_different_block_sizes_are_promoted_together() -> None:
    driver = tiered(block_sizes=(4, 8), kv_blocks=16, host=40, disk=40)
    evict(driver)
    driver.add(("s", 2), LONG)
    driver.settle()
    assert driver.cached_tokens[("s", 2)] == 32
    assert driver.answers(("s", 2)) == alone([LONG])[0]
    driver.assert_all_free()


def test_events_tell_the_tiers_apart() -> None:
    driver = tiered(host=12, disk=100)
    evict(driver)
    for tier, records in ((Tier.HOST, driver.tiers.slots), (Tier.DISK, driver.tiers.records)):
        assert 0 < len(driver.lower[tier, 0]) <= len(records[0])
    assert driver.lower[Tier.DISK, 0] == set(driver.tiers.records[0])


def test_a_source_is_promoted_too_and_offers_after() -> None:
    driver = tiered()
    evict(driver)
    driver.add(("s", 2), LONG, handoff=True)
    offers = []
    while driver.engine.has_work or driver.tiers.jobs:
        if driver.engine.has_work:
            offers += driver.step().offers
        else:
            driver.tiers.finish()
    assert [offer.key for offer in offers] == [("s", 2)]
    assert driver.cached_tokens[("s", 2)] == CACHED
    driver.engine.release(("s", 2))
    driver.settle()
    driver.assert_all_free()


def test_hints_are_bounded_and_a_hint_for_what_is_on_its_way_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(promotions, "MAX_HINTS", 1)
    driver = tiered(kv_blocks=24, host=100, tiers={"demote_share": 1.0})
    wanted = [request(prompt(20, seed=seed), max_tokens=1) for seed in (1, 2)]
    for number, one in enumerate(wanted):
        driver.add(("s", number), one)
        driver.settle()
    for number in range(2, 6):
        driver.add(("s", number), request(prompt(60, seed=10 + number), max_tokens=1))
        driver.settle()
    assert not driver.tiers.jobs
    assert driver.engine.prefetch(wanted[0])
    under_way = len(driver.tiers.jobs)
    assert under_way
    assert driver.engine.prefetch(wanted[0]), "its blocks come already"
    assert not driver.engine.prefetch(wanted[1])
    assert len(driver.tiers.jobs) == under_way
    driver.tiers.finish_all()
    driver.settle()
    assert driver.engine.prefetch(wanted[1])
    driver.settle()
    for number, one in enumerate(wanted, 10):
        driver.add(("s", number), one)
        driver.settle()
        assert driver.cached_tokens[("s", number)] == 16
    driver.assert_all_free()
