"""The one tree of settings: flags, then environment (`BATON_GATEWAY__PORT`), then a YAML file.

Only `cli` and `cluster.serve_app` build `Settings`; every other part is given its own group. Field
docstrings become `docs/settings.md`. Loading, with errors for unknown names, is in
`core.settings_loader`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from baton.core.named_numbers import check_classes, check_weights
from baton.core.store_url import EMBEDDED, check_store_url, with_login

Dtype = Literal["auto", "bfloat16", "float16", "float32", "float64"]
QueueOrder = Literal["fcfs", "priority", "shortest"]


class Group(BaseModel):
    """A branch of the tree: frozen, and a misspelt name is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelSettings(Group):
    """What is served."""

    source: str = "baton-tiny"
    """`baton-tiny`, a Hugging Face folder, or a hub id."""
    name: str | None = None
    """Name that clients use; by default the source's last path component."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Dtype = "auto"
    """Element type of weights and KV; auto takes the checkpoint's, or float32 where it is slow."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the engine computes; auto takes CUDA when there is a GPU."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt plus output in tokens; by default what the model's config says."""


class EngineSettings(Group):
    """One worker's engine."""

    kind: Literal["torch", "mock"] = "torch"
    """torch computes; mock keeps time and invents tokens, with real blocks and handoffs."""
    block_size: int = Field(16, ge=1, le=1024)
    """Tokens in a KV block."""
    kv_blocks: int | None = Field(None, ge=2)
    """KV blocks in the pool; overrides kv_memory_bytes."""
    kv_memory_bytes: int = Field(128 * 2**20, ge=1)
    """Memory for the KV pool."""
    max_batch_tokens: int = Field(1024, ge=1)
    """Token budget of a step, shared by decode and prefill chunks."""
    max_sequences: int = Field(256, ge=1)
    """Sequences that run at once."""
    queue_policy: QueueOrder = "fcfs"
    """Order of the prompts in the worker; priority: those of higher classes first; shortest: those
    with fewest tokens to compute, unless a longer one has waited for as many."""
    max_pinned_share: float = Field(0.5, ge=0, le=1)
    """Share of the pool that `cache_ttl` keeps cached as long as there is other room."""
    deterministic: bool = False
    """Reserved: batch-invariant numerics. Refused until the engine has them."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of a worker; by default the cores, divided by the workers that Baton starts."""
    mock_prefill_us_per_token: float = Field(20.0, ge=0)
    """Mock engine: microseconds of compute for a prompt token."""
    mock_step_ms: float = Field(10.0, ge=0)
    """Mock engine: milliseconds of a decode step."""
    mock_step_us_per_sequence: float = Field(0.0, ge=0)
    """Mock engine: microseconds that each sequence adds to a step."""
    mock_noise: float = Field(0.0, ge=0, le=1)
    """Mock engine: relative standard deviation of step times."""


class PoolSettings(Group):
    """How many workers of each role `baton serve` starts."""

    prefill: int = Field(1, ge=0)
    """Prefill workers; 0 makes the decode workers compute prompts too."""
    decode: int = Field(1, ge=1)
    """Decode workers."""


class GatewaySettings(Group):
    """The HTTP and gRPC front."""

    host: str = "127.0.0.1"
    """Address that HTTP and gRPC listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """HTTP port; 0 takes any free one and prints it."""
    grpc_port: int = Field(9000, ge=0, le=65535)
    """gRPC port; 0 takes any free one and prints it."""
    processes: int = Field(1, ge=1, le=64)
    """Processes that serve on the two ports, each with sessions of its own to all workers."""
    request_timeout_s: float = Field(300.0, gt=0)
    """Deadline of a request that brings none."""
    max_queue: int = Field(1024, ge=0)
    """Requests that wait for a worker; beyond it clients get 429."""
    overload: Literal["reject_lowest", "reject_new"] = "reject_lowest"
    """Who gets that 429: the youngest of the lowest class, of the tenant with most waiting, if the
    newcomer has more right to the room; or always the newcomer."""
    early_rejection: bool = True
    """Refuse at once what is predicted to miss its deadline, with 429 or 503 and Retry-After."""
    max_predicted_ttft_s: float | None = Field(None, gt=0)
    """Refuse in the same way what is predicted to wait longer for its first token."""
    max_predicted_tpot_s: float | None = Field(None, gt=0)
    """Hold requests back while one more would slow every decode worker's steps beyond this."""
    priorities: Annotated[str, AfterValidator(check_classes)] = "high=1,normal=0,low=-1"
    """Classes of requests by name; higher numbers go first, whatever is nearest to 0 is usual."""
    priority_aging_s: float = Field(0.0, ge=0)
    """Waiting so much longer outweighs one class number; 0: classes are strict."""
    tenant_weights: Annotated[str, AfterValidator(check_weights)] = ""
    """Shares of tenants that differ from 1, as `gold=3,trial=0.5`; also labels of metrics."""
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    """Largest request body."""
    status_window_s: float = Field(300.0, gt=0)
    """/v1/baton/status tells of the requests that ended within so many seconds."""
    shutdown_grace_s: float = Field(2.0, ge=0)
    """Time that open streams get when Ctrl-C, or the end of `baton serve`, stops the gateway."""
    unready_wait_s: float = Field(3.0, ge=0)
    """After SIGTERM: time in which the gateway is unready and still accepts, so that load balancers
    stop sending."""
    drain_timeout_s: float = Field(30.0, ge=0)
    """After that: time that open streams get."""
    max_cache_ttl_s: float = Field(3600.0, ge=0)
    """Longest `cache_ttl` of a request."""
    auth: Literal["auto", "keys", "off"] = "auto"
    """Whether clients need an API key. keys: always. auto: not when `host` is loopback, elsewhere
    as soon as there are keys (`baton keys create`); until then the gateway warns loudly."""
    metrics_need_key: bool = False
    """Ask for a key with scope read on /metrics, too."""
    limits_when_store_down: Literal["open", "closed"] = "open"
    """What limits of API keys do without the store. open: each gateway goes on counting by itself.
    closed: requests of keys with limits get 503."""
    limits_timeout_s: float = Field(0.5, gt=0)
    """Longest wait of a request for the store's word on its limits."""
    limits_output_estimate: int = Field(512, ge=0)
    """Output tokens for which each choice reserves room in token limits, if it may have so many;
    what it used is settled at the end."""
    max_attempts: int = Field(3, ge=1)
    """Placements of a request in a row that bring no token before it fails."""
    max_moves_per_worker: int = Field(8, ge=0)
    """Running sequences that move away from, or to, one worker at a time; 0 moves none."""
    resume_window_s: float = Field(5.0, gt=0)
    """How long a broken worker stream may take to resume before the worker counts as lost."""
    tokenizer_cache_bytes: int = Field(64 * 2**20, ge=0)
    """Memory for texts and their tokens, so that known turns of a chat are not tokenized again."""
    tls_cert_file: Path | None = None
    """Speak TLS on the HTTP and the gRPC port, with the certificate (and its chain) in this PEM
    file; it is read again when it changes. See docs/tls.md."""
    tls_key_file: Path | None = None
    """PEM file with that certificate's key, without a password."""
    trust_request_chat_template: bool = False
    """Run the `chat_template` of requests: a program in a sandbox whose time has no bound."""
    response_ttl_s: float = Field(3600.0, ge=0)
    """How long /v1/responses are kept for `previous_response_id`; 0 keeps none."""
    max_responses_bytes: int = Field(64 * 2**20, ge=0)
    """Room in the store for the responses that one gateway process keeps; the oldest go first."""

    @model_validator(mode="after")
    def _cert_with_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("name both gateway.tls_cert_file and gateway.tls_key_file, or neither")
        return self


class RouterSettings(Group):
    """Which worker gets a request."""

    policy: str = "kv_aware"
    """How workers are chosen: kv_aware, conductor, dynamo, latency, least_loaded, power_of_two,
    random, round_robin, session_affinity, or one that a package brings (see docs/routing.md)."""
    disaggregation: Literal["auto", "always"] = "auto"
    """auto lets a decode worker compute a prompt when that is predicted to cost less than a prefill
    worker and the handoff; always uses prefill workers as long as there are any."""
    temperature: float = Field(0.0, ge=0)
    """kv_aware: above 0, workers are drawn, the better the likelier; 0 takes the best."""
    overlap_decay: float = Field(0.0, ge=0)
    """kv_aware: how fast a cached prefix loses weight as its worker's queue grows; 0 not at all."""
    host_credit: float = Field(0.75, ge=0, le=1)
    """kv_aware: what a block in host memory saves of computing it."""
    disk_credit: float = Field(0.25, ge=0, le=1)
    """kv_aware: what a block on disk saves of computing it."""
    queue_weight: float = Field(0.5, ge=0, le=1)
    """kv_aware: what a second in a worker's queue counts beside a second of computing the prompt;
    below 1 it is rather waited for a prefix than computed again."""
    stall_weight: float = Field(0.005, ge=0)
    """kv_aware: how much a second counts that a running sequence waits for somebody's prompt."""
    decode_weight: float = Field(10.0, ge=0)
    """kv_aware: seconds until the first token that one second more between tokens is worth."""
    occupancy_weight: float = Field(1.0, ge=0)
    """kv_aware: seconds until the first token that a full worker costs more than an empty one."""
    fetch: bool = True
    """kv_aware: let workers fetch cached blocks from each other where computing takes longer."""
    ttft_slo_s: float = Field(2.0, gt=0)
    """latency: objective for the time to the first token."""
    tpot_slo_s: float = Field(0.05, gt=0)
    """latency: objective for the time between tokens."""
    affinity_load_bound: float = Field(1.25, ge=1)
    """session_affinity: a worker with so many times the mean number of sequences gets no more."""
    predicted_ttl_s: float = Field(2.0, gt=0)
    """How long the blocks of a prompt count as cached where it was placed, before the worker says
    so itself; it covers the siblings of a burst."""


class WorkerSettings(Group):
    """A worker process apart from its engine."""

    host: str = "127.0.0.1"
    """Address that the worker listens on and is reached at.

    With workers on several nodes, each needs an address of its own node here."""
    port: int = Field(0, ge=0, le=65535)
    """Port for gateways and other workers; 0 takes any free one, which the store tells them."""
    health_port: int | None = Field(None, ge=0, le=65535)
    """Port of /startupz, /livez, /readyz, /progress and /metrics (see docs/worker.md); 0 takes any
    free one and prints it; by default there is none."""
    health_host: str | None = None
    """Address that this port is on; by default that of `host`."""
    stuck_after_s: float = Field(300.0, gt=0)
    """/livez says that the worker is stuck once its engine's loop has stood still for so long; one
    step of a large prompt, or its first compilation of a kernel, must take less."""
    ray: bool = False
    """Run the worker as an actor of a local Ray that is started for it alone."""
    num_nodes: int = Field(1, ge=1, le=256)
    """Machines of this worker, whose `ray` is then on `host`; all but its own have to `join`."""
    join: str | None = None
    """HOST or HOST:PORT of another worker's Ray: no worker runs here, and this machine's GPUs are
    that worker's, until it ends."""
    role: Literal["prefill", "decode", "any"] = "any"
    """What the worker is for."""
    worker_id: str | None = None
    """Stable name; drawn when absent."""
    revision: str | None = None
    """Which rollout the worker belongs to: an opaque name, by which requests may be split."""
    node: str | None = None
    """Name of the machine in listings; by default its host name."""
    zone: str | None = None
    """Failure domain of its node. Reserved: nothing reads it yet."""
    fabric: str | None = None
    """Fast network that its node is on. Reserved: nothing reads it yet."""
    lease_ttl_s: float = Field(10.0, gt=0)
    """A worker that has not renewed for this long leaves the store."""
    lease_renew_s: float = Field(2.0, gt=0)
    """Time between renewals."""
    drain_grace_s: float = Field(30.0, ge=0)
    """Time that requests get to move away or end when the worker is told to stop."""
    session_grace_s: float = Field(5.0, gt=0)
    """A gateway's session gone for this long has its requests cancelled."""


class TransferSettings(Group):
    """Moving KV between workers."""

    transport: Literal["nixl", "dist", "inproc"] = "nixl"
    """nixl or dist (torch.distributed) between processes; inproc within one, for tests."""
    expect_rdma: bool = False
    """Log an error when KV goes to a peer by anything but RDMA."""
    ucx_net_devices: str | None = "lo"
    """UCX_NET_DEVICES for NIXL: loopback by default; empty leaves the choice to UCX."""
    ucx_tls: str | None = None
    """UCX_TLS for NIXL, for instance `tcp` to keep it from shared memory."""
    offer_wait_s: float = Field(10.0, gt=0)
    """Target: longest wait for an Offer after the submission."""
    grant_wait_s: float = Field(10.0, gt=0)
    """Source: longest wait for the first Grant after its Offer."""
    commit_wait_s: float = Field(60.0, gt=0)
    """Target: longest time without any progress between Grant and Commit."""
    write_wait_s: float = Field(20.0, gt=0)
    """Source: longest time that one write may take."""
    accept_wait_s: float = Field(5.0, gt=0)
    """Source: wait for Accepted before it asks again with Status."""
    status_tries: int = Field(3, ge=1)
    """Status questions before the source gives up."""
    fetch_wait_s: float = Field(2.0, gt=0)
    """Longest wait for cached blocks of a prompt from a peer, before it is computed here."""
    max_growth_tokens: int = Field(256, ge=1)
    """Tokens that a sequence may generate while it is moved; a target refuses more."""
    layer_groups: int = Field(4, ge=1)
    """Parts in which a prompt's blocks are sent as layers are computed; 1 sends them whole."""
    stop_wait_s: float = Field(2.0, gt=0)
    """Source: longest time that a moved sequence stands still before its commit."""
    checksum: Literal["always", "off"] = "always"
    """Check every written region; off only for benchmarks."""
    codec: Literal["none", "int8"] = "none"
    """How full blocks cross the wire: int8, where both workers have it, is smaller, less exact."""
    max_ungranted_share: float = Field(0.25, gt=0, le=1)
    """Share of the pool that finished but ungranted blocks may hold on a source."""
    quarantine_wait_s: float = Field(10.0, gt=0)
    """How long the quarantine may stay beyond its share: by then a peer's death is proven, and most
    that froze have thawed."""
    max_quarantined_share: float = Field(0.25, gt=0, le=1)
    """Share of the pool in quarantine beyond which the transport agent is recreated or, where that
    would not stop a peer on the same node, the worker drains and leaves."""


class TierSettings(Group):
    """Copies of a worker's cached KV blocks in host memory and on disk."""

    host_bytes: int = Field(0, ge=0)
    """Host memory for them, of each worker; 0 keeps none there."""
    disk_bytes: int = Field(0, ge=0)
    """Disk space for them, of each worker; 0 keeps none there."""
    disk_path: Path | None = None
    """Folder on the disk; each worker takes a subfolder that no other living one uses."""
    codec: Literal["none", "int8"] = "none"
    """How copies are encoded: none keeps them exact, int8 makes them smaller and less exact."""
    demote_share: float = Field(1.0, gt=0, le=1)
    """Share of the device's blocks that is kept free or copied ahead; 1 copies every idle one."""
    max_copies: int = Field(64, ge=1)
    """Blocks that move between two tiers at once, in each direction."""
    promote_wait_s: float = Field(0.5, ge=0)
    """Longest wait of a request for blocks of its prompt from lower tiers, before it computes."""


class RecordSettings(Group):
    """What gateways remember of requests, for `baton explain`."""

    keep: int = Field(1000, ge=0)
    """Calls that each remembers: so many of the newest, and so many slow or failed ones."""
    slow_first_token_s: float = Field(5.0, gt=0)
    """A call whose first token took longer is slow."""
    slow_gap_s: float = Field(1.0, gt=0)
    """So is one that stood still for longer between two tokens."""
    ttl_s: float = Field(600.0, gt=0)
    """How long the store keeps a record, where every gateway finds it."""
    max_stored_per_s: int = Field(50, ge=0, le=1000)
    """Records that each gateway writes there in a second, slow and failed ones first; 0: none."""


class StoreSettings(Group):
    """Discovery."""

    url: Annotated[str, AfterValidator(check_store_url)] = EMBEDDED
    """embedded, grpc://HOST:PORT, redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/MASTER
    or redis+cluster://HOST:PORT,HOST:PORT; with USER:PASSWORD@ before the hosts, rediss for TLS."""
    username: str | None = None
    """Redis: who logs in, where that is not in `url` but comes from elsewhere. It is put there."""
    password: str | None = None
    """Redis: its password, likewise; no character of it needs escaping."""
    host: str = "127.0.0.1"
    """Embedded store: address that it listens on."""
    port: int = Field(0, ge=0, le=65535)
    """Embedded store: its port; 0 takes any free one."""
    file: Path | None = None
    """Embedded store: file that keeps API keys and other lasting entries from one start to the
    next; by default they end with the process."""
    key_prefix: str = Field("baton", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")
    """Prefix of every key: deployments that share a store keep apart by it. (In a Redis Cluster it
    is put in braces, which makes it the hash tag.)"""
    lasting_ttl_s: float | None = Field(None, ge=60)
    """Redis: API keys and whatever else has no TTL of its own goes when no gateway has run for so
    long, as after a deployment was deleted; by default it stays."""

    @model_validator(mode="before")
    @classmethod
    def _login_into_url(cls, data: Any) -> Any:
        """So that a password is in one place only, which everything that prints knows of."""
        if not isinstance(data, dict):
            return data
        username, password = data.get("username"), data.get("password")
        if not username and not password:
            return data
        url = with_login(str(data.get("url", EMBEDDED)), username, password)
        return {**data, "url": url, "username": None, "password": None}


class TlsSettings(Group):
    """Mutual TLS on the connections between Baton's own processes, beside the deployment's
    token; off without these files. See docs/tls.md."""

    cert_file: Path | None = None
    """PEM file with this process's certificate (and its chain), which is for servers and clients
    and has the name `server_name`; it is read again when it changes."""
    key_file: Path | None = None
    """PEM file with that certificate's key, without a password."""
    ca_file: Path | None = None
    """PEM file with the authorities that sign the certificates of this deployment."""
    server_name: str = "baton"
    """DNS name in the certificate of every process; addresses do not matter."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        files = {
            "tls.cert_file": self.cert_file,
            "tls.key_file": self.key_file,
            "tls.ca_file": self.ca_file,
        }
        missing = [name for name, file in files.items() if file is None]
        if missing and len(missing) < len(files):
            raise ValueError(f"mutual TLS takes three files; name also {' and '.join(missing)}")
        return self


class ClusterSettings(Group):
    """Ray."""

    ray_address: str | None = None
    """Address of an existing Ray cluster; by default a local one is started."""
    ray_port: int = Field(6379, ge=1, le=65535)
    """Port that the Ray of a worker of several nodes is joined at."""
    object_store_bytes: int = Field(100 * 2**20, ge=75 * 2**20)
    """Memory of the local Ray's object store, which Baton hardly uses."""
    start_timeout_s: float = Field(180.0, gt=0)
    """Longest wait for all workers to be ready."""


class LogSettings(Group):
    """Logs, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "warning"
    """Least severe level written."""
    format: Literal["text", "json"] = "text"
    """text for people, json for collectors."""


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix="BATON_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    pools: PoolSettings = PoolSettings()
    gateway: GatewaySettings = GatewaySettings()
    router: RouterSettings = RouterSettings()
    worker: WorkerSettings = WorkerSettings()
    transfer: TransferSettings = TransferSettings()
    tiers: TierSettings = TierSettings()
    records: RecordSettings = RecordSettings()
    store: StoreSettings = StoreSettings()
    tls: TlsSettings = TlsSettings()
    cluster: ClusterSettings = ClusterSettings()
    log: LogSettings = LogSettings()
    token_file: Path | None = None
    """File with the deployment's token, made with mode 0600 when absent."""
    api_key_file: Path | None = None
    """File with the API key that `baton workers` and `baton explain` show to a gateway that asks
    for one."""
