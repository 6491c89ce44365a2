"""The prefix index of a process that reads KV events: its own, or one that siblings look up in."""

from __future__ import annotations

from baton.router.prefix_index import PrefixIndex
from baton.router.shared.index import IndexView, IndexWriter, worker_key
from baton.router.shared.layers import LayeredIndex
from baton.router.shared.memory import SharedFile
from baton.v1 import common_pb2


class OwnIndex:
    """`fed` takes what workers say, `asked` answers, `exact` counts what is in it."""

    def __init__(self, predicted_ttl_s: float) -> None:
        self.fed = self.asked = self.exact = PrefixIndex(predicted_ttl_s)

    def add_worker(self, row: int, worker: common_pb2.WorkerRef) -> None:
        """The row is this worker's from now on."""

    def remove_worker(self, row: int) -> None:
        """Forget the row's worker."""
        self.exact.drop_worker(row)

    def set_synced(self, row: int, is_synced: bool) -> None:
        """Whether all that the row's worker holds is known."""


class SharedIndex:
    """The same, in memory that siblings map; predictions are this process' own."""

    def __init__(self, file: SharedFile, predicted_ttl_s: float) -> None:
        self.fed = IndexWriter(file)
        self.asked = LayeredIndex(IndexView(file), predicted_ttl_s)
        self.exact = self.fed.index

    def add_worker(self, row: int, worker: common_pb2.WorkerRef) -> None:
        """See OwnIndex."""
        key = worker_key(worker.worker_id, worker.epoch)
        self.fed.add_worker(row, key)
        self.asked.add_worker(row, key)

    def remove_worker(self, row: int) -> None:
        """See OwnIndex."""
        self.fed.remove_worker(row)
        self.asked.remove_worker(row)

    def set_synced(self, row: int, is_synced: bool) -> None:
        """See OwnIndex."""
        self.fed.set_synced(row, is_synced)
