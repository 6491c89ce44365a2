"""A runner without weights: it keeps time, invents tokens and really writes and reads KV blocks.

The KV of a token is 8 bytes: a sum over all tokens up to it of a mix of token and position, modulo
2^64. So each slot names the whole prefix it belongs to. Each of the mock's four layers holds 2
bytes of it, and is written when its share of the step's time has passed, as a model's are. Before
it computes, the mock asserts that
the context in the sequence's blocks is that of the sequence's tokens: a block mixed up, overwritten
or never transferred raises AssertionError. A sampled token is a function of that sum, and with a
temperature of seed, choice and position too, so every worker continues a request identically.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.core.request import TokenLogprobs
from baton.core.settings import EngineSettings
from baton.engine.batch import Batch, BatchEntry, SampledToken, SampleSpec
from baton.engine.runner import LayerPieces

UInt64 = npt.NDArray[np.uint64]
# [num_blocks, NUM_LAYERS, block_size]: one group's KV.
Slots = npt.NDArray[np.uint16]

# Blocks when the settings name no number: kv_memory_bytes would make millions of these tiny ones.
DEFAULT_BLOCKS = 16384
NUM_LAYERS = 4
BYTES_PER_TOKEN = 8
# A logit bias of this much or more decides the token, the way to ask the mock for EOS.
DECISIVE_BIAS = 100.0
_MASK = (1 << 64) - 1
_ODD = 0xD1342543DE82EF95


class MockRunner:
    """Implements `engine.runner.Runner`."""

    rope = "none"
    eos_token_ids: frozenset[int]

    def __init__(
        self,
        settings: EngineSettings,
        *,
        vocab_size: int = 512,
        max_model_len: int = 8192,
        eos_token_ids: frozenset[int] = frozenset({0}),
        block_sizes: Sequence[int] | None = None,
        sleep: Callable[[float], object] = time.sleep,
        noise_seed: int = 0,
    ) -> None:
        """`block_sizes` makes one attention group for each; by default one of settings.block_size.

        `sleep(seconds)` passes a step's time: inject a clock's `advance` for virtual time.
        """
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.eos_token_ids = eos_token_ids
        self.identity = f"mock-{vocab_size}"
        sizes = tuple(block_sizes or (settings.block_size,))
        self.groups = tuple(_group(size) for size in sizes)
        self.num_blocks = tuple([settings.kv_blocks or DEFAULT_BLOCKS] * len(sizes))
        self._slots: list[Slots] = [
            np.zeros((num, NUM_LAYERS, size), dtype=np.uint16)
            for num, size in zip(self.num_blocks, sizes, strict=True)
        ]
        self._memory = _PrefixSums()
        self._settings = settings
        self._sleep = sleep
        self._noise = random.Random(noise_seed)

    def arenas(self) -> list[Arena]:
        return [
            Arena(
                group=group,
                address=slots.ctypes.data,
                num_blocks=len(slots),
                block_bytes=slots.shape[2] * BYTES_PER_TOKEN,
                memory="DRAM",
                device_id=0,
                view=slots.reshape(len(slots), -1).view(np.uint8),
                held=whole_slice(self.groups[group]),
            )
            for group, slots in enumerate(self._slots)
        ]

    def run(self, batch: Batch, pieces: LayerPieces | None = None) -> list[SampledToken]:
        """Copy, check the context, write the new tokens' KV while time passes, sample.

        Raises AssertionError when a block does not hold what it must.
        """
        for group, src, dst in batch.copies:
            self._slots[group][dst] = self._slots[group][src]
        entries = batch.entries
        seconds = self._time(entries)
        if not entries:
            self._pass(seconds)
            return []
        last, sums, slots = self._compute(entries)
        num_pieces = 1 if pieces is None else pieces.num_pieces
        for piece in range(num_pieces):
            begin, end = (NUM_LAYERS * p // num_pieces for p in (piece, piece + 1))
            for group, (blocks, positions) in enumerate(slots):
                self._slots[group][blocks, begin:end, positions] = sums[:, begin:end]
            self._pass(seconds / num_pieces)
            if pieces is not None and piece < num_pieces - 1:
                pieces.done(piece)
        return [
            self._sample(spec, state)
            for entry, state in zip(entries, last, strict=True)
            for spec in entry.samples
        ]

    # --- KV ---

    def _compute(
        self, entries: Sequence[BatchEntry]
    ) -> tuple[list[int], Slots, list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]]:
        """Check the context and compute the new tokens' KV.

        Returns each entry's sum after its last token; the KV of all new tokens `[T, NUM_LAYERS]`;
        and per group the block and the slot of each `[T]`.
        """
        context = [self._context(entry) for entry in entries]
        starts = np.array([entry.start for entry in entries])
        lengths = np.array([len(entry.token_ids) for entry in entries])
        ends = np.cumsum(lengths)
        # Position of each new token, and from there its prefix sum.
        positions = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
        tokens = np.concatenate([entry.token_ids for entry in entries])
        total = np.cumsum(_mix(tokens, positions), dtype=np.uint64)
        before = np.concatenate((np.zeros(1, dtype=np.uint64), total))[ends - lengths]
        carried = np.array([c[-1] if len(c) else 0 for c in context], dtype=np.uint64)
        sums = total + np.repeat(carried - before, lengths)
        where = []
        for group, slots in enumerate(self._slots):
            tables = [entry.block_tables[group] for entry in entries]
            self._check(slots, tables, starts, context)
            offsets = np.cumsum([0] + [len(table) for table in tables[:-1]])
            size = slots.shape[2]
            index = np.repeat(offsets, lengths) + positions // size
            where.append((np.concatenate(tables)[index], positions % size))
        for entry, begin, end in zip(
            entries, (ends - lengths).tolist(), ends.tolist(), strict=True
        ):
            self._memory.extend(entry.sequence_id, sums[begin:end])
        self._memory.end_run()
        last: list[int] = sums[ends - 1].tolist()
        return last, sums.view(np.uint16).reshape(-1, NUM_LAYERS), where

    def _context(self, entry: BatchEntry) -> UInt64:
        """Prefix sums of the tokens before this step's; where they are new, every slot is checked.

        Later steps check only what can have changed without anybody looking: ends of blocks.
        """
        known = self._memory.get(entry.sequence_id, entry.start)
        if known is not None:
            return known
        positions = np.arange(entry.start)
        sums = kv_of(entry.history[: entry.start])
        for table, slots in zip(entry.block_tables, self._slots, strict=True):
            size = slots.shape[2]
            found = _read(slots, table[positions // size], positions % size)
            assert np.array_equal(found, sums), "reused or transferred blocks hold other KV"
        self._memory.begin(entry.sequence_id, sums)
        return sums

    def _check(
        self,
        slots: Slots,
        tables: Sequence[npt.NDArray[np.int32]],
        starts: npt.NDArray[np.int64],
        context: Sequence[UInt64],
    ) -> None:
        """Assert the last slot of every full block of the context, and the context's last token."""
        size = slots.shape[2]
        num_full = (starts // size).tolist()
        blocks = np.concatenate([table[:n] for table, n in zip(tables, num_full, strict=True)])
        expected = np.concatenate(
            [c[size - 1 : n * size : size] for c, n in zip(context, num_full, strict=True)]
        )
        ends = np.full(len(blocks), size - 1)
        assert np.array_equal(_read(slots, blocks, ends), expected), "a full block holds other KV"
        tails = [
            (table[start // size], (start - 1) % size, c[-1])
            for table, start, c in zip(tables, starts.tolist(), context, strict=True)
            if start % size
        ]
        if tails:
            where, slot, value = (np.array(column) for column in zip(*tails, strict=True))
            found = _read(slots, where, slot)
            assert np.array_equal(found, value), "a partial block holds other KV"

    # --- time and tokens ---

    def _time(self, entries: Sequence[BatchEntry]) -> float:
        """Seconds that a step takes."""
        settings = self._settings
        num_decodes = sum(1 for entry in entries if entry.start and len(entry.token_ids) == 1)
        num_prefill = sum(len(entry.token_ids) for entry in entries) - num_decodes
        seconds = (
            num_prefill * settings.mock_prefill_us_per_token * 1e-6
            + (settings.mock_step_ms * 1e-3 if num_decodes else 0.0)
            + len(entries) * settings.mock_step_us_per_sequence * 1e-6
        )
        if settings.mock_noise:
            seconds *= max(0.0, self._noise.gauss(1.0, settings.mock_noise))
        return seconds

    def _pass(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _sample(self, spec: SampleSpec, state: int) -> SampledToken:
        params = spec.params
        number = state
        if params.temperature > 0:
            number ^= _mix_int(spec.seed * _ODD ^ spec.choice << 40 ^ spec.position)
        token = _mix_int(number) % self.vocab_size
        banned = self.eos_token_ids
        may_end = spec.position >= params.min_tokens
        for wanted, bias in params.logit_bias.items():
            if bias >= DECISIVE_BIAS and (may_end or wanted not in banned):
                token, banned = wanted, frozenset()
                break
        while token in banned:
            token = (token + 1) % self.vocab_size
        return SampledToken(token, self._logprobs(token, params.top_logprobs, params.logprobs))

    def _logprobs(self, token: int, num_top: int, wanted: bool) -> TokenLogprobs | None:
        """Made up, but decreasing and in range: 1/2, 1/4, 1/8, ..."""
        if not wanted:
            return None
        top = tuple([(token + i) % self.vocab_size for i in range(num_top)])
        logs = tuple([-0.6931471805599453 * (i + 1) for i in range(num_top)])
        return TokenLogprobs(-0.6931471805599453, top, logs)


def kv_of(tokens: Sequence[int] | npt.NDArray[np.int32]) -> UInt64:
    """What the slots of a sequence of tokens hold, `[len(tokens)]`."""
    array = np.asarray(tokens, dtype=np.int32)
    return np.cumsum(_mix(array, np.arange(len(array))), dtype=np.uint64)


class _PrefixSums:
    """The prefix sums of sequences that ran lately, so that a step need not start from scratch."""

    def __init__(self) -> None:
        # Sequence id -> (sums with room to grow, how many of them are valid).
        self._sums: dict[int, tuple[UInt64, int]] = {}
        # Those of this run.
        self._used: dict[int, None] = {}

    def get(self, sequence_id: int, size: int) -> UInt64 | None:
        """The first `size` sums, or None when they are not known. Later ones are forgotten."""
        known = self._sums.get(sequence_id)
        if known is None or known[1] < size:
            return None
        self._used[sequence_id] = None
        self._sums[sequence_id] = (known[0], size)
        return known[0][:size]

    def begin(self, sequence_id: int, sums: UInt64) -> None:
        self._used[sequence_id] = None
        self._sums[sequence_id] = (sums, len(sums))

    def extend(self, sequence_id: int, more: UInt64) -> None:
        sums, size = self._sums[sequence_id]
        end = size + len(more)
        if end > len(sums):
            grown = np.empty(max(2 * end, 64), dtype=np.uint64)
            grown[:size] = sums[:size]
            sums = grown
        sums[size:end] = more
        self._sums[sequence_id] = (sums, end)

    def end_run(self) -> None:
        """Forget sequences that were not in this run, once they outnumber those that were."""
        if len(self._sums) > 2 * len(self._used) + 64:
            self._sums = {ident: self._sums[ident] for ident in self._used}
        self._used = {}


def _read(slots: Slots, blocks: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]) -> UInt64:
    """The KV in slot `positions[i]` of block `blocks[i]`, `[N]`."""
    layers = np.ascontiguousarray(slots[blocks, :, positions])
    return layers.view(np.uint64).reshape(-1)


def _group(block_size: int) -> GroupSpec:
    layer_bytes = BYTES_PER_TOKEN // NUM_LAYERS
    return GroupSpec(
        kind="full",
        num_layers=NUM_LAYERS,
        num_kv_heads=1,
        k_dim=layer_bytes // 2,
        v_dim=layer_bytes // 2,
        block_size=block_size,
        dtype="uint8",
    )


def _mix(tokens: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]) -> UInt64:
    """splitmix64 of (token, position), elementwise; arithmetic is modulo 2^64."""
    x = tokens.astype(np.uint64) << np.uint64(32)
    x += positions.astype(np.uint64) + np.uint64(1)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _mix_int(x: int) -> int:
    """The same for one Python integer."""
    x = (x + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31
