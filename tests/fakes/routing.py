"""Pools of made-up workers for tests of the router: "p1" prefills, "d1" decodes, "a1" does both."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from baton.router.choice import Choice
from baton.router.columns import Role
from baton.router.policy.base import Policy, RequestView
from baton.router.pool import Booking, Pool
from baton.router.prefix_index import Overlap
from baton.router.selection import Selection, book, select
from baton.v1 import common_pb2, session_pb2, worker_pb2

ROLES = {"p": Role.PREFILL, "d": Role.DECODE, "a": Role.ANY}
BLOCK_SIZE = 16
# A block of 16 tokens of 8 KiB each.
BLOCK_BYTES = 128 * 2**10
NUM_BLOCKS = 10_000


def lease(
    worker_id: str, digest: str = "same", model: str = "m", revision: str = ""
) -> common_pb2.WorkerLease:
    return common_pb2.WorkerLease(
        worker=common_pb2.WorkerRef(worker_id=worker_id, epoch=1),
        role=int(ROLES[worker_id[0]]),  # type: ignore[arg-type]
        model=model,
        digest=digest,
        revision=revision,
        groups=[
            common_pb2.GroupSpec(
                num_layers=8,
                num_kv_heads=4,
                k_dim=64,
                v_dim=64,
                block_size=BLOCK_SIZE,
                dtype="bfloat16",
            )
        ],
        capacity=common_pb2.Capacity(
            num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, max_sequences=64, max_batch_tokens=2048
        ),
    )


class Routed:
    """A pool, a policy, and what the router makes of them. Workers are up and have reported
    nothing."""

    def __init__(self, policy: Policy, *names: str, seed: int = 3, **digests: str) -> None:
        self.policy = policy
        self.pool = Pool()
        self.rng = random.Random(seed)
        self.rows: dict[str, int] = {}
        for name in names:
            self.rows[name] = self.pool.add(lease(name, digests.get(name, "same")))
            self.pool.set_up(self.rows[name], True)

    def load(self, name: str, **fields: Any) -> None:
        """A report; idle and with room where nothing else is said."""
        fields = {"queue_room": 10, "free_blocks": NUM_BLOCKS} | fields
        self.pool.report(self.rows[name], session_pb2.Load(**fields))

    def measure(
        self, *names: str, tokens_per_s: float = 10_000, step_s: float = 0.01, **fields: Any
    ) -> None:
        """Reports of workers whose speed is known; `link` is bytes per second to their peers."""
        link = fields.pop("link", 10e9)
        links = [worker_pb2.PeerLink(is_up=True, bytes_per_s=link)] if link else []
        for name in names or tuple(self.rows):
            speed = {"prefill_tokens_per_s": tokens_per_s, "step_s": step_s, "links": links}
            self.load(name, **(speed | fields))

    def overlap(self, **blocks: int) -> Overlap:
        """Blocks that each worker's device holds; `a1_host` and `a1_disk` for lower tiers."""
        tiers = np.zeros((3, len(self.pool.columns)), np.int64)
        for key, count in blocks.items():
            name, _, tier = key.partition("_")
            tiers[("", "host", "disk").index(tier), self.rows[name]] = count
        return Overlap(tiers[0], tiers[1], tiers[2], int(tiers.sum(axis=0).max()))

    def view(self, num_tokens: int = 320, **fields: Any) -> RequestView:
        cached = fields.pop("cached", None)
        if cached is not None:
            fields["overlap"] = self.overlap(**cached)
        return RequestView("m", num_tokens, **fields)

    def select(self, num_tokens: int = 320, **fields: Any) -> Selection | None:
        return select(self.view(num_tokens, **fields), self.pool, self.policy, self.rng)

    def pick(self, num_tokens: int = 320, **fields: Any) -> str | None:
        """The chosen workers: "p1+d1" for a pair."""
        selection = self.select(num_tokens, **fields)
        return None if selection is None else self.names(selection)

    def names(self, selection: Selection) -> str:
        rows = (selection.prefill, selection.decode)
        return "+".join(self.pool.worker_id(row) for row in rows if row is not None)

    def place(self, num_tokens: int = 320, **fields: Any) -> tuple[str, list[Booking]]:
        """Pick and book; there must be room."""
        view = self.view(num_tokens, **fields)
        selection = select(view, self.pool, self.policy, self.rng)
        assert selection is not None
        bookings = book(view, self.pool, selection)
        return self.names(selection), [one for one in bookings if one is not None]

    def choice(self, num_tokens: int = 320, **fields: Any) -> Choice:
        view = self.view(num_tokens, **fields)
        selection = select(view, self.pool, self.policy, self.rng)
        assert selection is not None
        return Choice(view, self.pool, self.policy, selection)
