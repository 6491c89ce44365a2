from baton.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HandoffRequest(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: HandoffMessage
    def __init__(self, message: _Optional[_Union[HandoffMessage, _Mapping]] = ...) -> None: ...

class HandoffResponse(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: HandoffMessage
    def __init__(self, message: _Optional[_Union[HandoffMessage, _Mapping]] = ...) -> None: ...

class HandoffMessage(_message.Message):
    __slots__ = ("handoff_id", "attempt", "source_epoch", "target_epoch", "checksum", "hello", "offer", "grant", "commit", "accepted", "rejected", "status", "withdraw", "cancel", "quiesced", "fail", "fetch")
    HANDOFF_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TARGET_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    QUIESCED_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    handoff_id: bytes
    attempt: int
    source_epoch: int
    target_epoch: int
    checksum: int
    hello: Hello
    offer: Offer
    grant: Grant
    commit: Commit
    accepted: Accepted
    rejected: Rejected
    status: Status
    withdraw: Withdraw
    cancel: CancelHandoff
    quiesced: Quiesced
    fail: Fail
    fetch: Fetch
    def __init__(self, handoff_id: _Optional[bytes] = ..., attempt: _Optional[int] = ..., source_epoch: _Optional[int] = ..., target_epoch: _Optional[int] = ..., checksum: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., cancel: _Optional[_Union[CancelHandoff, _Mapping]] = ..., quiesced: _Optional[_Union[Quiesced, _Mapping]] = ..., fail: _Optional[_Union[Fail, _Mapping]] = ..., fetch: _Optional[_Union[Fetch, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker", "digest", "protocol_min", "protocol_max", "shards", "groups", "pid", "pid_start", "node")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PID_START_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    worker: _common_pb2.WorkerRef
    digest: str
    protocol_min: int
    protocol_max: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardEndpoint]
    groups: _containers.RepeatedCompositeFieldContainer[_common_pb2.GroupSpec]
    pid: int
    pid_start: int
    node: str
    def __init__(self, worker: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ..., digest: _Optional[str] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardEndpoint, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[_common_pb2.GroupSpec, _Mapping]]] = ..., pid: _Optional[int] = ..., pid_start: _Optional[int] = ..., node: _Optional[str] = ...) -> None: ...

class ShardEndpoint(_message.Message):
    __slots__ = ("shard", "transport_epoch", "metadata", "arenas")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ARENAS_FIELD_NUMBER: _ClassVar[int]
    shard: _common_pb2.Shard
    transport_epoch: int
    metadata: bytes
    arenas: _containers.RepeatedCompositeFieldContainer[ArenaRef]
    def __init__(self, shard: _Optional[_Union[_common_pb2.Shard, _Mapping]] = ..., transport_epoch: _Optional[int] = ..., metadata: _Optional[bytes] = ..., arenas: _Optional[_Iterable[_Union[ArenaRef, _Mapping]]] = ...) -> None: ...

class ArenaRef(_message.Message):
    __slots__ = ("group", "address", "num_blocks", "block_bytes", "memory", "device_id")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    group: int
    address: int
    num_blocks: int
    block_bytes: int
    memory: str
    device_id: int
    def __init__(self, group: _Optional[int] = ..., address: _Optional[int] = ..., num_blocks: _Optional[int] = ..., block_bytes: _Optional[int] = ..., memory: _Optional[str] = ..., device_id: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("sequences", "groups", "grant_wait_ms", "growth_tokens", "codecs")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GRANT_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedCompositeFieldContainer[OfferedSequence]
    groups: _containers.RepeatedCompositeFieldContainer[OfferedGroup]
    grant_wait_ms: int
    growth_tokens: int
    codecs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sequences: _Optional[_Iterable[_Union[OfferedSequence, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[OfferedGroup, _Mapping]]] = ..., grant_wait_ms: _Optional[int] = ..., growth_tokens: _Optional[int] = ..., codecs: _Optional[_Iterable[str]] = ...) -> None: ...

class OfferedSequence(_message.Message):
    __slots__ = ("choice", "num_tokens", "groups")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    choice: int
    num_tokens: int
    groups: _containers.RepeatedCompositeFieldContainer[BlockIndices]
    def __init__(self, choice: _Optional[int] = ..., num_tokens: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[BlockIndices, _Mapping]]] = ...) -> None: ...

class BlockIndices(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[_Iterable[int]] = ...) -> None: ...

class OfferedGroup(_message.Message):
    __slots__ = ("group", "num_blocks", "hashes")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    group: int
    num_blocks: int
    hashes: bytes
    def __init__(self, group: _Optional[int] = ..., num_blocks: _Optional[int] = ..., hashes: _Optional[bytes] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("grant_seq", "groups", "transport_epoch", "codec")
    GRANT_SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    grant_seq: int
    groups: _containers.RepeatedCompositeFieldContainer[GrantedGroup]
    transport_epoch: int
    codec: str
    def __init__(self, grant_seq: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[GrantedGroup, _Mapping]]] = ..., transport_epoch: _Optional[int] = ..., codec: _Optional[str] = ...) -> None: ...

class GrantedGroup(_message.Message):
    __slots__ = ("group", "index", "block_id", "generation", "skip")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    group: int
    index: _containers.RepeatedScalarFieldContainer[int]
    block_id: _containers.RepeatedScalarFieldContainer[int]
    generation: _containers.RepeatedScalarFieldContainer[int]
    skip: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, group: _Optional[int] = ..., index: _Optional[_Iterable[int]] = ..., block_id: _Optional[_Iterable[int]] = ..., generation: _Optional[_Iterable[int]] = ..., skip: _Optional[_Iterable[int]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("sequences", "shards")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedCompositeFieldContainer[CommittedSequence]
    shards: _containers.RepeatedCompositeFieldContainer[CommittedShard]
    def __init__(self, sequences: _Optional[_Iterable[_Union[CommittedSequence, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[CommittedShard, _Mapping]]] = ...) -> None: ...

class CommittedSequence(_message.Message):
    __slots__ = ("choice", "output", "finish_reason")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    choice: int
    output: _containers.RepeatedScalarFieldContainer[int]
    finish_reason: _common_pb2.FinishReason
    def __init__(self, choice: _Optional[int] = ..., output: _Optional[_Iterable[int]] = ..., finish_reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ...) -> None: ...

class CommittedShard(_message.Message):
    __slots__ = ("tp_rank", "pp_rank", "groups")
    TP_RANK_FIELD_NUMBER: _ClassVar[int]
    PP_RANK_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    tp_rank: int
    pp_rank: int
    groups: _containers.RepeatedCompositeFieldContainer[CommittedGroup]
    def __init__(self, tp_rank: _Optional[int] = ..., pp_rank: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[CommittedGroup, _Mapping]]] = ...) -> None: ...

class CommittedGroup(_message.Message):
    __slots__ = ("group", "index", "block_id", "generation", "checksum", "hashes")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    group: int
    index: _containers.RepeatedScalarFieldContainer[int]
    block_id: _containers.RepeatedScalarFieldContainer[int]
    generation: _containers.RepeatedScalarFieldContainer[int]
    checksum: _containers.RepeatedScalarFieldContainer[int]
    hashes: bytes
    def __init__(self, group: _Optional[int] = ..., index: _Optional[_Iterable[int]] = ..., block_id: _Optional[_Iterable[int]] = ..., generation: _Optional[_Iterable[int]] = ..., checksum: _Optional[_Iterable[int]] = ..., hashes: _Optional[bytes] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CancelHandoff(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Quiesced(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Fail(_message.Message):
    __slots__ = ("code", "message", "quiesced")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUIESCED_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    quiesced: bool
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., quiesced: _Optional[bool] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ("group", "hashes")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    group: int
    hashes: bytes
    def __init__(self, group: _Optional[int] = ..., hashes: _Optional[bytes] = ...) -> None: ...
