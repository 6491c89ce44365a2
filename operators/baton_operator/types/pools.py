"""Pools of workers: roles, sizes, engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from baton_operator.names import MAX_POOL_NAME, RESERVED_POOL_NAMES
from baton_operator.types.base import Part, Rule, Transition
from baton_operator.types.pod_template import PodTemplate, Resources
from baton_operator.types.scalars import ResourceName, Size

Role = Literal["prefill", "decode", "any"]
PoolName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=MAX_POOL_NAME
    ),
]
NVIDIA = "nvidia.com/gpu"


class Parallelism(Part):
    """How one worker is spread over GPUs."""

    tensor: int = Field(1, ge=1, le=1024)
    """Parts of every layer, each on its own GPU."""
    pipeline: int = Field(1, ge=1, le=1024)
    """Groups of layers, each on its own GPUs."""
    nodes: int = Field(1, ge=1, le=256)
    """Pods that make one worker, as a group of a LeaderWorkerSet when there are several."""

    rules = (
        Rule(
            "(self.tensor * self.pipeline) % self.nodes == 0",
            "parallelism: tensor * pipeline has to be a multiple of nodes, so that every pod of a "
            "worker has as many ranks",
            lambda p: p.ranks % p.nodes == 0,
        ),
    )

    @property
    def ranks(self) -> int:
        """Processes of one worker, over all its pods."""
        return self.tensor * self.pipeline


class EngineSpec(Part):
    """Settings of each worker's engine; the rest keeps the defaults of `baton worker`."""

    kind: Literal["torch", "mock"] = "torch"
    """torch computes; mock keeps time and invents tokens, for trying out routing and scaling."""
    block_size: int = Field(16, ge=1, le=1024)
    """Tokens in a KV block; the same in all pools, since blocks are handed over."""
    kv_memory: Size | None = None
    """Memory for the KV pool of each worker, on its GPU if it has one; unset takes 128Mi, which is
    enough for trying out only."""
    kv_blocks: int | None = Field(None, ge=2, le=2**31 - 1)
    """KV blocks of each worker, instead of kvMemory; unset goes by memory."""
    max_batch_tokens: int = Field(1024, ge=1, le=2**31 - 1)
    """Tokens of a step, shared by decode and chunks of prompts; more is faster, less is smoother
    between tokens."""
    max_sequences: int = Field(256, ge=1, le=2**31 - 1)
    """Sequences that run at once."""
    queue_policy: Literal["fcfs", "priority"] = "fcfs"
    """Order of the few prompts that wait in a worker."""
    num_threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads of each worker; unset takes the CPU limit of the container, or all cores."""
    mock_prefill_us_per_token: float | None = Field(None, ge=0)
    """Mock engine: microseconds of compute for a prompt token; unset takes the engine's default."""
    mock_step_ms: float | None = Field(None, ge=0)
    """Mock engine: milliseconds of a decode step; unset takes the engine's default."""
    mock_step_us_per_sequence: float | None = Field(None, ge=0)
    """Mock engine: microseconds that each sequence adds to a step; unset adds none."""
    mock_noise: float | None = Field(None, ge=0, le=1)
    """Mock engine: relative standard deviation of step times; unset leaves them even."""

    rules = (
        Rule(
            "!has(self.kvMemory) || !has(self.kvBlocks)",
            "engine: give the size of the KV pool once, as kvMemory or as kvBlocks",
            lambda e: e.kv_memory is None or e.kv_blocks is None,
        ),
        Rule(
            "self.kind == 'mock' || !(has(self.mockPrefillUsPerToken) || has(self.mockStepMs) || "
            "has(self.mockStepUsPerSequence) || has(self.mockNoise))",
            "engine: settings that begin with mock need kind: mock",
            lambda e: (
                e.kind == "mock"
                or (
                    e.mock_prefill_us_per_token is None
                    and e.mock_step_ms is None
                    and e.mock_step_us_per_sequence is None
                    and e.mock_noise is None
                )
            ),
        ),
    )


class PoolRollout(Part):
    """How many workers a rollout adds and takes away at a time."""

    max_surge: int = Field(1, ge=0, le=1000)
    """Workers above replicas; 0 where no GPU is spare."""
    max_unavailable: int = Field(0, ge=0, le=1000)
    """Workers below replicas; 0 keeps the capacity."""

    rules = (
        Rule(
            "self.maxSurge > 0 || self.maxUnavailable > 0",
            "rollout: with maxSurge and maxUnavailable 0 no worker could ever be replaced; set one "
            "of them to 1",
            lambda r: r.max_surge > 0 or r.max_unavailable > 0,
        ),
    )


class PoolSpec(Part):
    """Workers of one role that are all alike."""

    name: PoolName
    """Name of the pool, part of its objects' names."""
    role: Role
    """prefill computes prompts, decode generates answers, any does both."""
    replicas: int = Field(1, ge=0, le=10000)
    """Workers at the start and whenever this number is changed here. In between the WorkerPool's
    own spec.replicas counts, which `kubectl scale` and autoscalers change."""
    parallelism: Parallelism = Parallelism()
    """How one worker is spread over GPUs; by default it has one, and the torch engine of this
    version takes no more."""
    gpus: int | None = Field(None, le=64)
    """GPUs of each pod; unset asks for none: CPU, or devices claimed in resources."""
    gpu_resource: ResourceName = NVIDIA
    """What a GPU is called on the nodes, for instance nvidia.com/mig-3g.40gb."""
    resources: Resources = Resources()
    """What each pod asks for besides its GPUs; by default nothing."""
    engine: EngineSpec = EngineSpec()
    """Settings of each worker's engine."""
    rollout: PoolRollout = PoolRollout()
    """How many workers a rollout adds and takes away at a time."""
    drain_seconds: int = Field(120, ge=1, le=86400)
    """Seconds that a stopping worker has to move its requests away or finish them; two minutes is
    what spot nodes are given."""
    pod_template: PodTemplate = PodTemplate()
    """Merged over each worker pod: selectors, tolerations, volumes, runtime class and so on."""

    rules = (
        Rule(
            f"!(self.name in {list(RESERVED_POOL_NAMES)})",
            "a pool cannot be called " + ", ".join(RESERVED_POOL_NAMES) + ": other parts of the "
            "service have these names; take another",
            lambda p: p.name not in RESERVED_POOL_NAMES,
        ),
        Rule(
            "!has(self.gpus) || self.gpus > 0",
            "gpus has to be 1 or more; leave it out for workers on CPU or with claimed devices",
            lambda p: p.gpus is None or p.gpus > 0,
        ),
        Rule(
            "!has(self.gpus) || self.gpus * self.parallelism.nodes == "
            "self.parallelism.tensor * self.parallelism.pipeline",
            "gpus * parallelism.nodes has to equal parallelism.tensor * parallelism.pipeline: "
            "every rank of a worker has one GPU",
            lambda p: p.gpus is None or p.gpus * p.parallelism.nodes == p.parallelism.ranks,
        ),
        Rule(
            f"self.gpuResource == '{NVIDIA}' || has(self.gpus)",
            "gpuResource says what a GPU is called: set gpus, too, or remove it",
            lambda p: p.gpu_resource == NVIDIA or p.gpus is not None,
        ),
        Rule(
            "(!has(self.resources.limits) || !(self.gpuResource in self.resources.limits)) && "
            "(!has(self.resources.requests) || !(self.gpuResource in self.resources.requests))",
            "GPUs are asked for with gpus, and gpuResource says what they are called: remove them "
            "from resources",
            lambda p: (
                p.gpu_resource not in p.resources.limits
                and p.gpu_resource not in p.resources.requests
            ),
        ),
    )
    transitions = (
        Transition(
            "self.role == oldSelf.role",
            "a pool keeps its role: add a pool with another name and remove this one",
        ),
    )
