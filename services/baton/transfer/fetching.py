"""Cached blocks of a prompt, asked of a peer that holds them, and lent to peers that ask.

Either way it is a handoff without choices: Fetch, then Offer to Accepted as ever. A peer that holds
nothing of it, or has no room to lend it, withdraws.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from baton.core.block_hash import HASH_BYTES
from baton.core.clock import Clock
from baton.core.handoff import Key
from baton.core.request import Request
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.base import HandoffHost
from baton.transfer.entry import Entry
from baton.transfer.links import Message
from baton.transfer.peers import PeerId, Peers
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff
from baton.v1 import common_pb2, transfer_pb2

# A fetch is no submission, so it is nobody's attempt but the first.
ATTEMPT = 1
HANDOFF_ID_BYTES = 16


class FetchHost(HandoffHost, Protocol):
    """The worker, as its fetches see it."""

    def new_key(self) -> Key:
        """For a fetch; no submission has it."""

    def lend(self, key: Key, group: int, hashes: Sequence[bytes]) -> tuple[int, ...]:
        """Hold the cached blocks of the longest prefix of `hashes` until `release`."""


class Fetching:
    """Starts both sides' machines.

    `codecs` are the transport's, `add` and `feed` are those of Handoffs.
    """

    def __init__(
        self,
        me: common_pb2.WorkerRef,
        num_groups: int,
        host: FetchHost,
        peers: Peers,
        settings: TransferSettings,
        codecs: tuple[str, ...],
        clock: Clock,
        add: Callable[[Entry], None],
        feed: Callable[[Entry, state.Event], None],
    ) -> None:
        self._me = me
        self._num_groups = num_groups
        self._host = host
        self._peers = peers
        self._settings = settings
        self._codecs = codecs
        self._clock = clock
        self._add = add
        self._feed = feed

    def ask(
        self,
        key: Key,
        request: Request,
        peer: common_pb2.WorkerRef,
        group: int,
        hashes: Sequence[bytes],
    ) -> None:
        """Fetch what `peer` holds of a prefix; the host hears how it ended.

        It ends within transfer.fetch_wait_s, whatever the peer does.
        """
        now = self._clock()
        identity = state.Identity(
            secrets.token_bytes(HANDOFF_ID_BYTES), ATTEMPT, peer.epoch, self._me.epoch
        )
        machine = TargetHandoff(
            identity,
            (),
            self._num_groups,
            min(request.deadline, now + self._settings.fetch_wait_s),
            self._settings,
            now,
            transfer_pb2.Fetch(group=group, hashes=b"".join(hashes)),
        )
        peer_id = (peer.worker_id, peer.epoch)
        entry = Entry(key, machine, peer_id, request.request_id, request, self._host)
        self._add(entry)
        self._peers.reach(peer)
        # Where there is a stream already, nobody else will say so.
        self._feed(entry, state.PeerUp())

    def lend(self, peer_id: PeerId, message: Message) -> Message | None:
        """A peer's Fetch: offer what is here, or return the Withdraw to answer with."""
        fetch = message.fetch
        identity = state.Identity(
            message.handoff_id, message.attempt, message.source_epoch, message.target_epoch
        )
        if message.source_epoch != self._me.epoch or len(message.handoff_id) != HANDOFF_ID_BYTES:
            return None
        hashes = [fetch.hashes[i : i + HASH_BYTES] for i in range(0, len(fetch.hashes), HASH_BYTES)]
        key = self._host.new_key()
        blocks = self._host.lend(key, fetch.group, hashes)
        if not blocks:
            return identity.message("withdraw", transfer_pb2.Withdraw())
        until = self._clock() + self._settings.fetch_wait_s
        machine = SourceHandoff(identity, (), until, self._settings)
        entry = Entry(key, machine, peer_id, message.handoff_id.hex(), None, self._host)
        self._add(entry)
        groups = range(self._num_groups)
        offered = tuple([tuple(hashes[: len(blocks)]) if g == fetch.group else () for g in groups])
        ids = tuple([blocks if g == fetch.group else () for g in groups])
        self._feed(entry, state.Due(0, offered, tuple(map(len, offered)), codecs=self._codecs))
        self._feed(entry, state.Ready((0,) * self._num_groups, ids, {}))
        return None
