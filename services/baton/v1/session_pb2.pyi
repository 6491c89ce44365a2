from baton.v1 import common_pb2 as _common_pb2
from baton.v1 import events_pb2 as _events_pb2
from baton.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("open", "submits", "cancels", "forget", "migrates", "prefetches")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    MIGRATES_FIELD_NUMBER: _ClassVar[int]
    PREFETCHES_FIELD_NUMBER: _ClassVar[int]
    open: Open
    submits: _containers.RepeatedCompositeFieldContainer[Submit]
    cancels: _containers.RepeatedCompositeFieldContainer[Cancel]
    forget: Forget
    migrates: _containers.RepeatedCompositeFieldContainer[Migrate]
    prefetches: _containers.RepeatedCompositeFieldContainer[Prefetch]
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., submits: _Optional[_Iterable[_Union[Submit, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., forget: _Optional[_Union[Forget, _Mapping]] = ..., migrates: _Optional[_Iterable[_Union[Migrate, _Mapping]]] = ..., prefetches: _Optional[_Iterable[_Union[Prefetch, _Mapping]]] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("opened", "frame")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    frame: Frame
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("session_id", "worker_epoch", "resume", "protocol")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    worker_epoch: int
    resume: _containers.RepeatedCompositeFieldContainer[ResumePoint]
    protocol: int
    def __init__(self, session_id: _Optional[str] = ..., worker_epoch: _Optional[int] = ..., resume: _Optional[_Iterable[_Union[ResumePoint, _Mapping]]] = ..., protocol: _Optional[int] = ...) -> None: ...

class ResumePoint(_message.Message):
    __slots__ = ("slot", "choice", "next_position")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    NEXT_POSITION_FIELD_NUMBER: _ClassVar[int]
    slot: int
    choice: int
    next_position: int
    def __init__(self, slot: _Optional[int] = ..., choice: _Optional[int] = ..., next_position: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("worker", "resumed", "lease")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    worker: _common_pb2.WorkerRef
    resumed: bool
    lease: _common_pb2.WorkerLease
    def __init__(self, worker: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ..., resumed: _Optional[bool] = ..., lease: _Optional[_Union[_common_pb2.WorkerLease, _Mapping]] = ...) -> None: ...

class PromptSegment(_message.Message):
    __slots__ = ("token_ids", "media")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    token_ids: TokenIds
    media: Media
    def __init__(self, token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., media: _Optional[_Union[Media, _Mapping]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("content_hash", "num_tokens", "url")
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    content_hash: bytes
    num_tokens: int
    url: str
    def __init__(self, content_hash: _Optional[bytes] = ..., num_tokens: _Optional[int] = ..., url: _Optional[str] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("index", "output_so_far")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SO_FAR_FIELD_NUMBER: _ClassVar[int]
    index: int
    output_so_far: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., output_so_far: _Optional[_Iterable[int]] = ...) -> None: ...

class HandoffRole(_message.Message):
    __slots__ = ("side", "handoff_id", "peer")
    class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SIDE_UNSPECIFIED: _ClassVar[HandoffRole.Side]
        SIDE_SOURCE: _ClassVar[HandoffRole.Side]
        SIDE_TARGET: _ClassVar[HandoffRole.Side]
    SIDE_UNSPECIFIED: HandoffRole.Side
    SIDE_SOURCE: HandoffRole.Side
    SIDE_TARGET: HandoffRole.Side
    SIDE_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    side: HandoffRole.Side
    handoff_id: bytes
    peer: _common_pb2.WorkerRef
    def __init__(self, side: _Optional[_Union[HandoffRole.Side, str]] = ..., handoff_id: _Optional[bytes] = ..., peer: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("slot", "request_id", "attempt", "model", "lora_id", "lora_revision", "tenant_salt", "prompt", "choices", "sampling", "seed", "grammar", "remaining_ms", "traceparent", "handoff", "priority", "cache_ttl_ms", "fetch_from", "stream_interval")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LORA_ID_FIELD_NUMBER: _ClassVar[int]
    LORA_REVISION_FIELD_NUMBER: _ClassVar[int]
    TENANT_SALT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    FETCH_FROM_FIELD_NUMBER: _ClassVar[int]
    STREAM_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    slot: int
    request_id: str
    attempt: int
    model: str
    lora_id: str
    lora_revision: str
    tenant_salt: str
    prompt: _containers.RepeatedCompositeFieldContainer[PromptSegment]
    choices: _containers.RepeatedCompositeFieldContainer[Choice]
    sampling: _common_pb2.SamplingParams
    seed: int
    grammar: str
    remaining_ms: int
    traceparent: str
    handoff: HandoffRole
    priority: int
    cache_ttl_ms: int
    fetch_from: _common_pb2.WorkerRef
    stream_interval: int
    def __init__(self, slot: _Optional[int] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., model: _Optional[str] = ..., lora_id: _Optional[str] = ..., lora_revision: _Optional[str] = ..., tenant_salt: _Optional[str] = ..., prompt: _Optional[_Iterable[_Union[PromptSegment, _Mapping]]] = ..., choices: _Optional[_Iterable[_Union[Choice, _Mapping]]] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ..., seed: _Optional[int] = ..., grammar: _Optional[str] = ..., remaining_ms: _Optional[int] = ..., traceparent: _Optional[str] = ..., handoff: _Optional[_Union[HandoffRole, _Mapping]] = ..., priority: _Optional[int] = ..., cache_ttl_ms: _Optional[int] = ..., fetch_from: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ..., stream_interval: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("slot",)
    SLOT_FIELD_NUMBER: _ClassVar[int]
    slot: int
    def __init__(self, slot: _Optional[int] = ...) -> None: ...

class Migrate(_message.Message):
    __slots__ = ("slot", "next_position", "handoff_id", "peer")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    NEXT_POSITION_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    slot: int
    next_position: int
    handoff_id: bytes
    peer: _common_pb2.WorkerRef
    def __init__(self, slot: _Optional[int] = ..., next_position: _Optional[int] = ..., handoff_id: _Optional[bytes] = ..., peer: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ...) -> None: ...

class Prefetch(_message.Message):
    __slots__ = ("model", "lora_id", "lora_revision", "tenant_salt", "prompt", "cache_ttl_ms", "fetch_from")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LORA_ID_FIELD_NUMBER: _ClassVar[int]
    LORA_REVISION_FIELD_NUMBER: _ClassVar[int]
    TENANT_SALT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CACHE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    FETCH_FROM_FIELD_NUMBER: _ClassVar[int]
    model: str
    lora_id: str
    lora_revision: str
    tenant_salt: str
    prompt: _containers.RepeatedCompositeFieldContainer[PromptSegment]
    cache_ttl_ms: int
    fetch_from: _common_pb2.WorkerRef
    def __init__(self, model: _Optional[str] = ..., lora_id: _Optional[str] = ..., lora_revision: _Optional[str] = ..., tenant_salt: _Optional[str] = ..., prompt: _Optional[_Iterable[_Union[PromptSegment, _Mapping]]] = ..., cache_ttl_ms: _Optional[int] = ..., fetch_from: _Optional[_Union[_common_pb2.WorkerRef, _Mapping]] = ...) -> None: ...

class Forget(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slots: _Optional[_Iterable[int]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("slot", "choice", "position", "token", "flags", "logprobs", "events", "load")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    slot: _containers.RepeatedScalarFieldContainer[int]
    choice: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[int]
    token: _containers.RepeatedScalarFieldContainer[int]
    flags: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[RowLogprobs]
    events: _containers.RepeatedCompositeFieldContainer[SlotEvent]
    load: Load
    def __init__(self, slot: _Optional[_Iterable[int]] = ..., choice: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[int]] = ..., token: _Optional[_Iterable[int]] = ..., flags: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[RowLogprobs, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[SlotEvent, _Mapping]]] = ..., load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...

class RowLogprobs(_message.Message):
    __slots__ = ("row", "logprob", "top_tokens", "top_logprobs")
    ROW_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    row: int
    logprob: float
    top_tokens: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, row: _Optional[int] = ..., logprob: _Optional[float] = ..., top_tokens: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class SlotEvent(_message.Message):
    __slots__ = ("slot", "kind", "code", "message", "retryable", "cached_tokens", "handoff", "handoff_id", "age_s")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[SlotEvent.Kind]
        KIND_SCHEDULED: _ClassVar[SlotEvent.Kind]
        KIND_HANDED_OFF: _ClassVar[SlotEvent.Kind]
        KIND_FAILED: _ClassVar[SlotEvent.Kind]
        KIND_MOVE_FAILED: _ClassVar[SlotEvent.Kind]
        KIND_FIRST_STEP: _ClassVar[SlotEvent.Kind]
    KIND_UNSPECIFIED: SlotEvent.Kind
    KIND_SCHEDULED: SlotEvent.Kind
    KIND_HANDED_OFF: SlotEvent.Kind
    KIND_FAILED: SlotEvent.Kind
    KIND_MOVE_FAILED: SlotEvent.Kind
    KIND_FIRST_STEP: SlotEvent.Kind
    SLOT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_ID_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    slot: int
    kind: SlotEvent.Kind
    code: str
    message: str
    retryable: bool
    cached_tokens: int
    handoff: HandoffTiming
    handoff_id: bytes
    age_s: float
    def __init__(self, slot: _Optional[int] = ..., kind: _Optional[_Union[SlotEvent.Kind, str]] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ..., cached_tokens: _Optional[int] = ..., handoff: _Optional[_Union[HandoffTiming, _Mapping]] = ..., handoff_id: _Optional[bytes] = ..., age_s: _Optional[float] = ...) -> None: ...

class HandoffTiming(_message.Message):
    __slots__ = ("grant_wait_s", "transfer_s", "verify_s", "bytes", "hidden_bytes", "exposed_s", "transport", "offer_wait_s", "first_step_s", "reason")
    GRANT_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    VERIFY_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_S_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    OFFER_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    grant_wait_s: float
    transfer_s: float
    verify_s: float
    bytes: int
    hidden_bytes: int
    exposed_s: float
    transport: str
    offer_wait_s: float
    first_step_s: float
    reason: str
    def __init__(self, grant_wait_s: _Optional[float] = ..., transfer_s: _Optional[float] = ..., verify_s: _Optional[float] = ..., bytes: _Optional[int] = ..., hidden_bytes: _Optional[int] = ..., exposed_s: _Optional[float] = ..., transport: _Optional[str] = ..., offer_wait_s: _Optional[float] = ..., first_step_s: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("sequence_number", "num_waiting", "num_running", "queued_prefill_tokens", "free_blocks", "cached_blocks", "reserved_blocks", "quarantined_blocks", "queue_room", "draining", "short_of_blocks", "prefill_tokens_per_s", "step_s", "promotions", "promotion_timeouts", "tiers", "links", "pinned_blocks", "fetched_blocks", "leaving_in_ms", "prefill_step_s", "newest_slot")
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_ROOM_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SHORT_OF_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    PINNED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_IN_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_STEP_S_FIELD_NUMBER: _ClassVar[int]
    NEWEST_SLOT_FIELD_NUMBER: _ClassVar[int]
    sequence_number: int
    num_waiting: int
    num_running: int
    queued_prefill_tokens: int
    free_blocks: int
    cached_blocks: int
    reserved_blocks: int
    quarantined_blocks: int
    queue_room: int
    draining: bool
    short_of_blocks: bool
    prefill_tokens_per_s: float
    step_s: float
    promotions: int
    promotion_timeouts: int
    tiers: _containers.RepeatedCompositeFieldContainer[TierLoad]
    links: _containers.RepeatedCompositeFieldContainer[_worker_pb2.PeerLink]
    pinned_blocks: int
    fetched_blocks: int
    leaving_in_ms: int
    prefill_step_s: float
    newest_slot: int
    def __init__(self, sequence_number: _Optional[int] = ..., num_waiting: _Optional[int] = ..., num_running: _Optional[int] = ..., queued_prefill_tokens: _Optional[int] = ..., free_blocks: _Optional[int] = ..., cached_blocks: _Optional[int] = ..., reserved_blocks: _Optional[int] = ..., quarantined_blocks: _Optional[int] = ..., queue_room: _Optional[int] = ..., draining: _Optional[bool] = ..., short_of_blocks: _Optional[bool] = ..., prefill_tokens_per_s: _Optional[float] = ..., step_s: _Optional[float] = ..., promotions: _Optional[int] = ..., promotion_timeouts: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[TierLoad, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[_worker_pb2.PeerLink, _Mapping]]] = ..., pinned_blocks: _Optional[int] = ..., fetched_blocks: _Optional[int] = ..., leaving_in_ms: _Optional[int] = ..., prefill_step_s: _Optional[float] = ..., newest_slot: _Optional[int] = ...) -> None: ...

class TierLoad(_message.Message):
    __slots__ = ("tier", "used_bytes", "capacity_bytes", "hits", "demotions", "drops", "failures")
    TIER_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    DEMOTIONS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    tier: _events_pb2.KvTier
    used_bytes: int
    capacity_bytes: int
    hits: int
    demotions: int
    drops: int
    failures: int
    def __init__(self, tier: _Optional[_Union[_events_pb2.KvTier, str]] = ..., used_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., hits: _Optional[int] = ..., demotions: _Optional[int] = ..., drops: _Optional[int] = ..., failures: _Optional[int] = ...) -> None: ...
