"""A peer as our NIXL agent knows it: its ranks' agents, and prepared lists of both sides' blocks.

Lists are made once per pair and cut of a write; a write is then arrays of indices into them.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.core.kv import Arena
from baton.transfer.base import PeerShard
from baton.transfer.checksum import Run
from baton.transfer.layout import run_descriptors
from baton.transfer.preflight import SCRATCH_BYTES, Endpoint, fabric_between, unpack
from baton.transfer.relayout import GroupPlan, checksum_runs, group_plan
from baton.transfer.writes import ArrayWrite, Ids, elements

log = logging.getLogger(__name__)


class LocalLists:
    """Prepared lists of our own blocks, shared by the senders to all peers."""

    def __init__(self, agent: Any, arenas: Mapping[int, Arena]) -> None:
        self._agent = agent
        self._arenas = arenas
        self._lists: dict[tuple[int, tuple[Run, ...]], Any] = {}
        self._lock = threading.Lock()

    def get(self, group: int, runs: tuple[Run, ...]) -> Any:
        """The list of these runs of every block. From any thread."""
        with self._lock:
            found = self._lists.get((group, runs))
            if found is None:
                arena = self._arenas[group]
                found = self._lists[group, runs] = self._agent.prep_xfer_dlist(
                    "NIXL_INIT_AGENT", run_descriptors(arena, runs), arena.memory
                )
            return found


class RemoteAgents:
    """Peers' agents that ours knows. From any thread.

    A sender that leaves and the one that takes its place may both write to the same.
    """

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        # By name, which NIXL gives as bytes.
        self._users: Counter[Any] = Counter()
        self._lock = threading.Lock()

    def add(self, metadata: bytes) -> Any:
        """Its name. Raises what NIXL does."""
        with self._lock:
            name = self._agent.add_remote_agent(metadata)
            self._users[name] += 1
            return name

    def remove(self, name: Any) -> None:
        """Nobody writes to it any more, or one fewer does."""
        with self._lock:
            self._users[name] -= 1
            if self._users[name]:
                return
            del self._users[name]
            try:
                self._agent.remove_remote_agent(name)
            except Exception:
                log.debug("removing a remote agent", exc_info=True)


@dataclass(frozen=True, slots=True)
class _Lists:
    """Of one group, one cut of it, and one of the peer's ranks."""

    plan: GroupPlan
    local: Any
    remote: Any
    num_remote_blocks: int


class NixlPeer:
    """Used by one thread. What NIXL raises is one class per status, so callers catch Exception."""

    def __init__(
        self,
        agent: Any,
        remotes: RemoteAgents,
        local: LocalLists,
        arenas: Mapping[int, Arena],
        shards: Sequence[PeerShard],
        endpoint: Endpoint,
    ) -> None:
        self._agent = agent
        self._remotes = remotes
        self._local = local
        self._arenas = arenas
        self._shards = tuple(shards)
        self._endpoint = endpoint
        # One per rank of the peer; empty while they are not loaded.
        self._names: list[Any] = []
        self._lists: dict[tuple[int, int], list[_Lists]] = {}
        # Where records go: the beginnings of the only rank's blocks, by group.
        self._record_lists: dict[int, Any] = {}
        self._runs = {group: checksum_runs(arena, shards) for group, arena in arenas.items()}

    @property
    def is_loaded(self) -> bool:
        return bool(self._names)

    def runs(self, group: int) -> list[tuple[Run, ...] | None]:
        """What a checksum covers for each rank that holds some of ours, see `checksum_runs`."""
        return self._runs[group]

    def load(self) -> None:
        """Connect, and prepare the lists of whole blocks."""
        for shard in self._shards:
            self._names.append(self._remotes.add(unpack(shard.metadata)[1]))
        for group in self._arenas:
            self._prepared(group, 1)
        for name in self._names:
            self._agent.make_connection(name)

    def forget(self) -> None:
        """Drop the connections, so that the next write makes new ones."""
        self._lists.clear()
        self._record_lists.clear()
        names, self._names = self._names, []
        for name in names:
            self._remotes.remove(name)

    @property
    def fabric(self) -> str:
        """What carries the bytes to the peer's first rank, as far as can be told."""
        theirs = self._shards[0]
        arenas = (*self._arenas.values(), *theirs.arenas)
        endpoint, _ = unpack(theirs.metadata)
        return fabric_between(self._endpoint, endpoint, [arena.memory for arena in arenas])

    def probe(self) -> Any:
        """A request that writes our scratch region to that of the peer's first rank."""
        there, _ = unpack(self._shards[0].metadata)
        mine, theirs = (
            self._agent.get_xfer_descs([(start, SCRATCH_BYTES, 0)], "DRAM")
            for start in (self._endpoint.scratch, there.scratch)
        )
        return self._agent.initialize_xfer("WRITE", mine, theirs, self._names[0])

    def requests(self, write: ArrayWrite, first: int, end: int) -> list[Any]:
        """NIXL requests for blocks `first` to `end` of a write, one per rank that takes a share."""
        num_local_blocks = self._arenas[write.group].num_blocks
        made = []
        for lists in self._prepared(write.group, write.num_parts):
            runs = lists.plan.starts[write.part], lists.plan.starts[write.part + 1]
            if runs[0] == runs[1]:
                continue
            made.append(
                self._agent.make_prepped_xfer(
                    "WRITE",
                    lists.local,
                    elements(write.local[first:end], *runs, num_local_blocks),
                    lists.remote,
                    elements(write.remote[first:end], *runs, lists.num_remote_blocks),
                )
            )
        return made

    def record_request(
        self, group: int, record_bytes: int, records: Any, slots: Ids, remote: Ids
    ) -> Any:
        """A NIXL request for these slots of a prepared list of `records`, see `nixl_staging`."""
        there = self._record_lists.get(group)
        if there is None:
            [theirs] = [arena for arena in self._shards[0].arenas if arena.group == group]
            rows = run_descriptors(theirs, [(0, record_bytes)])
            there = self._agent.prep_xfer_dlist(self._names[0], rows, theirs.memory)
            self._record_lists[group] = there
        return self._agent.make_prepped_xfer("WRITE", records, slots, there, remote)

    def part_bytes(self, write: ArrayWrite) -> int:
        """What a write moves of each block, to all ranks together."""
        plans = (lists.plan for lists in self._prepared(write.group, write.num_parts))
        return sum(run.length for plan in plans for run in plan.part(write.part))

    def _prepared(self, group: int, num_parts: int) -> list[_Lists]:
        found = self._lists.get((group, num_parts))
        if found is None:
            found = self._lists[group, num_parts] = self._prepare(group, num_parts)
        return found

    def _prepare(self, group: int, num_parts: int) -> list[_Lists]:
        ours = self._arenas[group]
        made = []
        for name, shard in zip(self._names, self._shards, strict=True):
            for theirs in shard.arenas:
                plan = group_plan(ours, theirs, num_parts)
                if theirs.group != group or not plan.ranges:
                    continue
                local = tuple((run.ours, run.length) for run in plan.ranges)
                there = run_descriptors(theirs, [(r.theirs, r.length) for r in plan.ranges])
                remote = self._agent.prep_xfer_dlist(name, there, theirs.memory)
                made.append(_Lists(plan, self._local.get(group, local), remote, theirs.num_blocks))
        return made
