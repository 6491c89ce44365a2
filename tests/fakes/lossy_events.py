"""A worker's event log that loses events on the way to its watchers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from baton.v1 import events_pb2
from baton.worker.events import Context, EventLog, Response


class LossyEventLog(EventLog):
    """`num_to_lose` deltas are never sent."""

    num_to_lose = 0

    async def KvEvents(
        self, request: events_pb2.KvEventsRequest, context: Context
    ) -> AsyncIterator[Response]:
        async for response in super().KvEvents(request, context):
            if self.num_to_lose and response.HasField("delta"):
                self.num_to_lose -= 1
            else:
                yield response
