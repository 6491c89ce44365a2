from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutRequest(_message.Message):
    __slots__ = ("key", "value", "ttl_s")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    ttl_s: float
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutAllRequest(_message.Message):
    __slots__ = ("entries", "ttl_s")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    ttl_s: float
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class PutAllResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("key", "value", "ttl_s", "replaces")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    ttl_s: float
    replaces: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., ttl_s: _Optional[float] = ..., replaces: _Optional[bytes] = ...) -> None: ...

class ClaimResponse(_message.Message):
    __slots__ = ("holder",)
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    def __init__(self, holder: _Optional[bytes] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("found", "value")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    found: bool
    value: bytes
    def __init__(self, found: _Optional[bool] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("prefix",)
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    def __init__(self, prefix: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("prefix",)
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    def __init__(self, prefix: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("kind", "key", "value")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[WatchResponse.Kind]
        KIND_PUT: _ClassVar[WatchResponse.Kind]
        KIND_DELETED: _ClassVar[WatchResponse.Kind]
        KIND_EXPIRED: _ClassVar[WatchResponse.Kind]
        KIND_SYNCED: _ClassVar[WatchResponse.Kind]
    KIND_UNSPECIFIED: WatchResponse.Kind
    KIND_PUT: WatchResponse.Kind
    KIND_DELETED: WatchResponse.Kind
    KIND_EXPIRED: WatchResponse.Kind
    KIND_SYNCED: WatchResponse.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    kind: WatchResponse.Kind
    key: str
    value: bytes
    def __init__(self, kind: _Optional[_Union[WatchResponse.Kind, str]] = ..., key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class LimitRequest(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[LimitStep]
    def __init__(self, steps: _Optional[_Iterable[_Union[LimitStep, _Mapping]]] = ...) -> None: ...

class LimitStep(_message.Message):
    __slots__ = ("verb", "holder", "charges")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[LimitStep.Verb]
        VERB_TAKE: _ClassVar[LimitStep.Verb]
        VERB_SETTLE: _ClassVar[LimitStep.Verb]
        VERB_HOLD: _ClassVar[LimitStep.Verb]
        VERB_LOOK: _ClassVar[LimitStep.Verb]
    VERB_UNSPECIFIED: LimitStep.Verb
    VERB_TAKE: LimitStep.Verb
    VERB_SETTLE: LimitStep.Verb
    VERB_HOLD: LimitStep.Verb
    VERB_LOOK: LimitStep.Verb
    VERB_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    verb: LimitStep.Verb
    holder: str
    charges: _containers.RepeatedCompositeFieldContainer[Charge]
    def __init__(self, verb: _Optional[_Union[LimitStep.Verb, str]] = ..., holder: _Optional[str] = ..., charges: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ...) -> None: ...

class Charge(_message.Message):
    __slots__ = ("name", "kind", "bound", "window_ms", "amount")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Charge.Kind]
        KIND_RATE: _ClassVar[Charge.Kind]
        KIND_SLOTS: _ClassVar[Charge.Kind]
        KIND_TOTAL: _ClassVar[Charge.Kind]
    KIND_UNSPECIFIED: Charge.Kind
    KIND_RATE: Charge.Kind
    KIND_SLOTS: Charge.Kind
    KIND_TOTAL: Charge.Kind
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: Charge.Kind
    bound: int
    window_ms: int
    amount: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Charge.Kind, str]] = ..., bound: _Optional[int] = ..., window_ms: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class LimitResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[LimitResult]
    def __init__(self, results: _Optional[_Iterable[_Union[LimitResult, _Mapping]]] = ...) -> None: ...

class LimitResult(_message.Message):
    __slots__ = ("granted", "levels")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    levels: _containers.RepeatedCompositeFieldContainer[LimitLevel]
    def __init__(self, granted: _Optional[bool] = ..., levels: _Optional[_Iterable[_Union[LimitLevel, _Mapping]]] = ...) -> None: ...

class LimitLevel(_message.Message):
    __slots__ = ("left", "reset_us")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RESET_US_FIELD_NUMBER: _ClassVar[int]
    left: int
    reset_us: int
    def __init__(self, left: _Optional[int] = ..., reset_us: _Optional[int] = ...) -> None: ...
