"""Prompts that are about to come, told to the workers that would get them now."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from baton.core.errors import InvalidRequestError, UnavailableError
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.prefix_lookup import PrefixLookup
from baton.gateway.workers.prompt_hashes import PromptHashes
from baton.router.columns import Role
from baton.router.policy.base import Policy, RequestView
from baton.router.selection import select
from baton.v1 import common_pb2, session_pb2


@dataclass(frozen=True, slots=True)
class Hint:
    """A prompt, how many seconds to keep it, and a worker that may have more of it, or none."""

    model: str
    prompt: tuple[int, ...]
    cache_ttl_s: float
    tenant_salt: str = ""
    from_worker: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A worker that was told, and the role that it would have."""

    worker_id: str
    role: str


class Prefetcher(Protocol):
    """What the API needs from those who know the workers."""

    def prefetch(self, hint: Hint) -> list[Told]:
        """Pass a hint on. Raises UnavailableError, and InvalidRequestError for `from_worker`."""


class Hints:
    """Asks the policy as for a request, and books nothing.

    `prefixes` is None where the policy asks for no overlap.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        prefixes: PrefixLookup | None = None,
        seed: int | None = None,
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._prefixes = prefixes
        self._rng = random.Random(seed)

    def prefetch(self, hint: Hint) -> list[Told]:
        """See `Prefetcher`. A worker whose stream breaks just now does not hear of it."""
        pool = self._fleet.pool
        overlap = None
        if self._prefixes is not None:
            hashes = PromptHashes(hint.prompt, hint.tenant_salt)
            overlap = self._prefixes.overlap(hint.model, hashes)
        view = RequestView(hint.model, len(hint.prompt), overlap=overlap)
        selection = select(view, pool, self._policy, self._rng)
        if selection is None:
            raise UnavailableError(f"{self._fleet.shortage(hint.model)}; try again later")
        message = session_pb2.Prefetch(
            model=hint.model,
            tenant_salt=hint.tenant_salt,
            prompt=[session_pb2.PromptSegment(token_ids=session_pb2.TokenIds(ids=hint.prompt))],
            cache_ttl_ms=min(2**32 - 1, round(hint.cache_ttl_s * 1000)),
        )
        peer = self._worker(hint) if hint.from_worker else None
        told = []
        for row in (selection.decode, selection.prefill):
            if row is None:
                continue
            session = self._fleet.session(row)
            message.ClearField("fetch_from")
            if peer is not None and peer != session.worker:
                message.fetch_from.CopyFrom(peer)
            session.prefetch(message)
            role = Role(int(pool.columns.role[row])).name.lower()
            told.append(Told(pool.worker_id(row), role))
        return told

    def _worker(self, hint: Hint) -> common_pb2.WorkerRef:
        """The peer to fetch from."""
        pool = self._fleet.pool
        for row in pool.candidates(hint.model):
            if pool.worker_id(int(row)) == hint.from_worker:
                return self._fleet.session(int(row)).worker
        raise InvalidRequestError(
            f"No worker {hint.from_worker[:128]!r} serves this model now; see /v1/baton/workers.",
            param="from_worker",
        )
