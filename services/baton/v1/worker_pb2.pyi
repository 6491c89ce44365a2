from baton.v1 import common_pb2 as _common_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DrainRequest(_message.Message):
    __slots__ = ("reason", "within_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    WITHIN_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    within_ms: int
    def __init__(self, reason: _Optional[str] = ..., within_ms: _Optional[int] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("num_running",)
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    num_running: int
    def __init__(self, num_running: _Optional[int] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PeerLink(_message.Message):
    __slots__ = ("peer", "transport", "fabric", "bytes_per_s", "is_up")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    FABRIC_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    IS_UP_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.WorkerRef
    transport: str
    fabric: str
    bytes_per_s: float
    is_up: bool
    def __init__(self, peer: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ..., transport: _Optional[str] = ..., fabric: _Optional[str] = ..., bytes_per_s: _Optional[float] = ..., is_up: _Optional[bool] = ...) -> None: ...
