"""Columns that follow from others, one row at a time: cheaper than for all rows in each choice."""

from __future__ import annotations

import math

from baton.router.columns import Columns, Role

# What a cached block counts beside one in use: where two workers are alike otherwise, a prompt that
# nobody has goes to the one that has more room left for it.
CACHED_WEIGHT = 0.2
# What a second of a peer's link counts beside one of compute: others want it, too, and each copy
# evicts something (of 1, 2 and 2.5 in `make bench-routing`, 2 reuses most without a longer tail).
FETCH_PRICE = 2.0
# A worker's queue takes prompts of so many steps (`engine.load_report`).
QUEUED_STEPS = 2
# More than any prompt has.
_ANY_TOKENS = 2**62


def derive_load(columns: Columns, row: int) -> None:
    """What changes with each placement and report."""
    queued = columns.queued_prefill_tokens.item(row) - columns.credited_tokens.item(row)
    queued = max(0, queued) + columns.unreported_tokens.item(row)
    columns.queued_tokens[row] = queued
    prefill_s_per_token = columns.prefill_s_per_token.item(row)
    columns.queue_s[row] = queued * prefill_s_per_token + columns.prefill_base_s.item(row)
    sequences = columns.num_running.item(row) + columns.num_waiting.item(row)
    sequences += columns.unreported_sequences.item(row) + columns.awaiting_kv.item(row)
    columns.sequences[row] = sequences
    free = columns.free_blocks.item(row) - columns.booked_blocks.item(row)
    room = columns.queue_room.item(row)
    landing = 0
    if room > 0:
        # Where nothing is on its way, there is nothing to wait for either.
        is_busy = columns.inflight.item(row) > 0
        landing = free * columns.block_size.item(row) if is_busy else _ANY_TOKENS
    columns.landing_tokens[row] = landing
    num_blocks = columns.num_blocks.item(row)
    blocks = num_blocks - free
    # Of what they are expected to write, sequences have on average written half.
    blocks += columns.expected_blocks.item(row) // 2
    columns.active_blocks[row] = blocks
    step_s = columns.step_base_s.item(row)
    step_s += columns.step_s_per_sequence.item(row) * (sequences + 1)
    step_s += columns.step_s_per_block.item(row) * blocks
    columns.step_s[row] = step_s
    max_batch_tokens = columns.max_batch_tokens.item(row)
    prefill_step_s = max_batch_tokens * prefill_s_per_token
    # A prefill worker decodes nothing.
    stalled = sequences if columns.role.item(row) != Role.PREFILL else 0
    columns.stalled[row] = stalled
    # A prompt step of no measurable length stalls nobody.
    columns.interleaved[row] = step_s / prefill_step_s if stalled and prefill_step_s else 0.0
    held = blocks + CACHED_WEIGHT * columns.cached_blocks.item(row)
    max_sequences = columns.max_sequences.item(row)
    share = sequences / max_sequences + held / max(1, num_blocks)
    columns.occupancy[row] = share / 2
    has_room = room > columns.unreported.item(row)
    if not has_room and room:
        # It counts in prompts of mean length; those that were sent may be shorter.
        has_room = queued < QUEUED_STEPS * max_batch_tokens and sequences < max_sequences
    columns.has_room[row] = has_room
    columns.barrier[row] = 0.0 if has_room else math.inf
    is_known = has_room and columns.prefill_is_measured.item(row)
    columns.unknown_barrier[row] = 0.0 if is_known else math.inf


def derive_speed(columns: Columns, row: int) -> None:
    """What changes with measurements only."""
    block_size = columns.block_size.item(row)
    compute_s = block_size * columns.prefill_s_per_token.item(row)
    block_bytes = columns.block_bytes.item(row)
    transfer_s = block_bytes / columns.link_bytes_per_s.item(row)
    columns.step_s_per_token[row] = columns.step_s_per_block.item(row) / block_size
    columns.block_compute_s[row] = compute_s
    columns.block_transfer_s[row] = transfer_s
    columns.token_transfer_s[row] = transfer_s / block_size
    # Nobody guesses how fast an unknown worker is, nor what a block of unknown size costs.
    is_known = block_bytes > 0 and columns.prefill_is_measured.item(row)
    gain_s = max(0.0, compute_s - FETCH_PRICE * transfer_s)
    columns.block_fetch_gain_s[row] = gain_s if is_known else 0.0
