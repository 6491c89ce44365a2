"""Too many blocks in quarantine: a new agent where that frees them, else a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable

from baton.core.errors import HandoffError
from baton.core.settings import TransferSettings
from baton.telemetry.logging import event as log_event
from baton.transfer import state
from baton.transfer.base import Transport
from baton.transfer.entries import Entries
from baton.transfer.entry import Entry
from baton.transfer.hello import Greeter
from baton.transfer.peers import PeerId, Peers
from baton.transfer.process import node

log = logging.getLogger(__name__)


class Quarantine:
    """`feed` is that of Handoffs; `num_pool_blocks` are all blocks of this worker."""

    def __init__(
        self,
        transport: Transport,
        greeter: Greeter,
        peers: Peers,
        entries: Entries,
        settings: TransferSettings,
        num_pool_blocks: int,
        feed: Callable[[Entry, state.Event], None],
    ) -> None:
        self._transport = transport
        self._greeter = greeter
        self._peers = peers
        self._entries = entries
        self._wait_s = settings.quarantine_wait_s
        self._max_blocks = settings.max_quarantined_share * num_pool_blocks
        self._feed = feed
        # Since when it has been too large.
        self._crowded_at: float | None = None
        self.must_restart = False
        """It is too large, and recreating the transport cannot free its blocks."""

    def watch(self, num_blocks: int, now: float) -> None:
        """Act once it has been too large for transfer.quarantine_wait_s."""
        if num_blocks <= self._max_blocks:
            self._crowded_at, self.must_restart = None, False
        elif self._crowded_at is None:
            self._crowded_at = now
        elif now - self._crowded_at >= self._wait_s and not self.must_restart:
            self._crowded_at = None
            self._free(num_blocks)

    def fences(self, peer_id: PeerId) -> bool:
        """Whether a new agent of ours ends this peer's writes, and one of the peer's ends ours."""
        if self._transport.recreate_fences_node:
            return True
        peer = self._peers.find(peer_id)
        there = peer.hello.process.node if peer is not None and peer.hello is not None else ""
        return bool(there) and bool(node()) and there != node()

    def _free(self, num_blocks: int) -> None:
        kept = [entry for entry in self._entries.all() if entry.num_quarantined]
        if not any(self.fences(entry.peer_id) for entry in kept):
            log.critical(*log_event("quarantine_full", blocks=num_blocks))
            self.must_restart = True
            return
        log.warning(*log_event("transport_recreated", quarantined_blocks=num_blocks))
        try:
            self._transport.recreate()
        except HandoffError as error:
            log.critical(*log_event("transport_stuck", reason=error.message))
            self.must_restart = True
            # The old agent lives, without its peers: the drain that follows has to reach them.
            self._peers.reintroduce()
            return
        self._greeter.refresh()
        self._peers.reintroduce()
        for entry in self._entries.all():
            self._feed(entry, state.Recreated(self.fences(entry.peer_id)))
