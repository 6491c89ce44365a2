"""What workers can be asked, and with which messages; proto/ says what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from baton.v1 import events_pb2, session_pb2, transfer_pb2, worker_pb2
from baton.wire.streams.stream import In, MessageType, Out


@dataclass(frozen=True, slots=True)
class Method(Generic[Out, In]):
    """As its caller sees it: `Out` is what the caller sends, `In` what it is answered."""

    name: str
    request: MessageType[Out]
    response: MessageType[In]


SESSION = Method(
    "baton.v1.SessionService/Session", session_pb2.SessionRequest, session_pb2.SessionResponse
)
KV_EVENTS = Method(
    "baton.v1.EventsService/KvEvents", events_pb2.KvEventsRequest, events_pb2.KvEventsResponse
)
HANDOFF = Method(
    "baton.v1.TransferService/Handoff", transfer_pb2.HandoffRequest, transfer_pb2.HandoffResponse
)
DRAIN = Method("baton.v1.WorkerService/Drain", worker_pb2.DrainRequest, worker_pb2.DrainResponse)
UNDRAIN = Method(
    "baton.v1.WorkerService/Undrain", worker_pb2.UndrainRequest, worker_pb2.UndrainResponse
)
