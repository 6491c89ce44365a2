from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KvTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KV_TIER_UNSPECIFIED: _ClassVar[KvTier]
    KV_TIER_DEVICE: _ClassVar[KvTier]
    KV_TIER_HOST: _ClassVar[KvTier]
    KV_TIER_DISK: _ClassVar[KvTier]
KV_TIER_UNSPECIFIED: KvTier
KV_TIER_DEVICE: KvTier
KV_TIER_HOST: KvTier
KV_TIER_DISK: KvTier

class KvEventsRequest(_message.Message):
    __slots__ = ("worker_epoch", "after_event_id")
    WORKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    worker_epoch: int
    after_event_id: int
    def __init__(self, worker_epoch: _Optional[int] = ..., after_event_id: _Optional[int] = ...) -> None: ...

class KvEventsResponse(_message.Message):
    __slots__ = ("worker_epoch", "snapshot", "delta")
    WORKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    worker_epoch: int
    snapshot: KvSnapshotChunk
    delta: KvDelta
    def __init__(self, worker_epoch: _Optional[int] = ..., snapshot: _Optional[_Union[KvSnapshotChunk, _Mapping]] = ..., delta: _Optional[_Union[KvDelta, _Mapping]] = ...) -> None: ...

class KvSnapshotChunk(_message.Message):
    __slots__ = ("event_id", "last", "blocks")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    event_id: int
    last: bool
    blocks: _containers.RepeatedCompositeFieldContainer[KvBlocks]
    def __init__(self, event_id: _Optional[int] = ..., last: _Optional[bool] = ..., blocks: _Optional[_Iterable[_Union[KvBlocks, _Mapping]]] = ...) -> None: ...

class KvDelta(_message.Message):
    __slots__ = ("event_id", "stored", "removed", "changed_at_us")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_US_FIELD_NUMBER: _ClassVar[int]
    event_id: int
    stored: _containers.RepeatedCompositeFieldContainer[KvBlocks]
    removed: _containers.RepeatedCompositeFieldContainer[KvBlocks]
    changed_at_us: int
    def __init__(self, event_id: _Optional[int] = ..., stored: _Optional[_Iterable[_Union[KvBlocks, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[KvBlocks, _Mapping]]] = ..., changed_at_us: _Optional[int] = ...) -> None: ...

class KvBlocks(_message.Message):
    __slots__ = ("group", "tier", "hashes")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    group: int
    tier: KvTier
    hashes: bytes
    def __init__(self, group: _Optional[int] = ..., tier: _Optional[_Union[KvTier, str]] = ..., hashes: _Optional[bytes] = ...) -> None: ...
