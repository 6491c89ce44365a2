"""What is served, and where its weights are kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from baton_operator.types.base import Part, Rule
from baton_operator.types.scalars import Name, Size, Text

_SOURCE = "^/?[A-Za-z0-9][-_.A-Za-z0-9]*(/[A-Za-z0-9][-_.A-Za-z0-9]*)*$"
CacheType = Literal["PerPod", "ExistingClaim", "NewClaim", "HostPath"]
FolderPath = Annotated[
    str,
    StringConstraints(pattern=r"^(/[A-Za-z0-9_][-_.A-Za-z0-9]*)+$", min_length=1, max_length=512),
]


class SecretKey(Part):
    """One key of a Secret in the same namespace. Only pods read it, the operator never does."""

    name: Name
    """Name of the Secret."""
    key: Text = "token"
    """Key inside it."""


class CacheSpec(Part):
    """Where weights are kept between starts of pods."""

    type: CacheType = "PerPod"
    """PerPod: each pod downloads for itself and forgets with it, so that no volume is needed.
    ExistingClaim: a claim of yours that many nodes can mount. NewClaim: one is made for you.
    HostPath: a folder of each node. On a claim one Job downloads and the workers run offline."""
    claim_name: Name | None = None
    """ExistingClaim: name of the PersistentVolumeClaim in this namespace."""
    path: FolderPath | None = None
    """HostPath: the folder on each node; it is made when absent."""
    size: Size | None = None
    """NewClaim: what the claim asks for. PerPod: the most that a pod's copy may take; unset sets
    no bound."""
    storage_class_name: Name | None = None
    """NewClaim: the StorageClass; unset takes the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce"] = "ReadWriteMany"
    """Of the claim. ReadOnlyMany: an ExistingClaim that holds the model already, nothing is
    downloaded. ReadWriteOnce: all workers have to run on one node."""

    rules = (
        Rule(
            "self.type != 'ExistingClaim' || has(self.claimName)",
            "set cache.claimName: type ExistingClaim mounts a claim that is there already",
            lambda c: c.type != "ExistingClaim" or c.claim_name is not None,
        ),
        Rule(
            "self.type == 'ExistingClaim' || !has(self.claimName)",
            "cache.claimName is for type ExistingClaim: set that type or remove claimName",
            lambda c: c.type == "ExistingClaim" or c.claim_name is None,
        ),
        Rule(
            "self.type != 'HostPath' || has(self.path)",
            "set cache.path: type HostPath needs a folder of the nodes",
            lambda c: c.type != "HostPath" or c.path is not None,
        ),
        Rule(
            "self.type == 'HostPath' || !has(self.path)",
            "cache.path is for type HostPath: set that type or remove path",
            lambda c: c.type == "HostPath" or c.path is None,
        ),
        Rule(
            "self.type != 'NewClaim' || has(self.size)",
            "set cache.size: type NewClaim asks for a volume of that size",
            lambda c: c.type != "NewClaim" or c.size is not None,
        ),
        Rule(
            "self.type in ['NewClaim', 'PerPod'] || !has(self.size)",
            "cache.size is for types NewClaim and PerPod: remove it",
            lambda c: c.type in ("NewClaim", "PerPod") or c.size is None,
        ),
        Rule(
            "self.type == 'NewClaim' || !has(self.storageClassName)",
            "cache.storageClassName is for type NewClaim: set that type or remove it",
            lambda c: c.type == "NewClaim" or c.storage_class_name is None,
        ),
        Rule(
            "self.type != 'NewClaim' || self.accessMode != 'ReadOnlyMany'",
            "cache.accessMode ReadOnlyMany is for a claim that holds the model already: "
            "set ReadWriteMany for type NewClaim",
            lambda c: c.type != "NewClaim" or c.access_mode != "ReadOnlyMany",
        ),
        Rule(
            # Has a default, so that it is always there.
            "self.type in ['ExistingClaim', 'NewClaim'] || self.accessMode == 'ReadWriteMany'",
            "cache.accessMode is for claims: set type ExistingClaim or NewClaim, or remove it",
            lambda c: c.type in ("ExistingClaim", "NewClaim") or c.access_mode == "ReadWriteMany",
        ),
    )

    @property
    def shared(self) -> bool:
        """Whether one Job downloads for all pods."""
        return self.type in ("ExistingClaim", "NewClaim")


class ModelSpec(Part):
    """What is served. Any change of it is a new revision, which rolls all pools."""

    source: Text
    """A hub id like Qwen/Qwen3-8B; baton-tiny, the small model inside the image; or, beginning with
    a slash, a folder of the cache's volume like /llama-70b."""
    name: Text | None = None
    """Name that clients use; unset takes the source's last path component."""
    revision: Text | None = None
    """Branch, tag or commit of a hub id, looked up once and kept in status; unset takes main."""
    dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = "auto"
    """Element type of weights and KV; auto takes the checkpoint's."""
    quantization: Literal["none"] = "none"
    """How weights are quantised; none is all that the engine computes with so far."""
    max_model_len: int | None = Field(None, ge=1, le=2**31 - 1)
    """Longest prompt plus output in tokens; unset takes what the model's config says."""
    token_secret: SecretKey | None = None
    """Access token of a private hub or gated model; unset asks the hub without one."""
    cache: CacheSpec = CacheSpec()
    """Where weights are kept; by default each pod downloads for itself."""
    start_timeout_seconds: int = Field(1800, ge=10, le=86400)
    """Seconds that a worker may take from its start until it is ready, download included; half an
    hour because large checkpoints on slow disks take that long."""

    rules = (
        Rule(
            f"self.source.matches('{_SOURCE}')",
            "model.source: give a hub id like org/name, or a folder like /name of the cache's "
            "volume; no URL, and no way up",
            lambda m: re.fullmatch(_SOURCE, m.source) is not None,
        ),
        Rule(
            "!self.source.startsWith('/') || self.cache.type != 'PerPod'",
            "model.source is a folder: say in model.cache on which claim or host path it lies",
            lambda m: not m.from_folder or m.cache.type != "PerPod",
        ),
        Rule(
            "!self.source.startsWith('/') || !has(self.revision)",
            "model.revision is for hub ids: remove it, or give a hub id as source",
            lambda m: not m.from_folder or m.revision is None,
        ),
        Rule(
            "self.source.startsWith('/') || self.source == 'baton-tiny' || "
            "self.cache.accessMode != 'ReadOnlyMany' || self.cache.type != 'ExistingClaim'",
            "nothing can be downloaded to a ReadOnlyMany claim: give the folder on it as "
            "model.source, like /qwen3-8b",
            lambda m: (
                m.from_folder
                or m.source == "baton-tiny"
                or m.cache.access_mode != "ReadOnlyMany"
                or m.cache.type != "ExistingClaim"
            ),
        ),
    )

    @property
    def from_folder(self) -> bool:
        """Whether the model lies on the cache's volume already."""
        return self.source.startswith("/")

    @property
    def needs_fetch(self) -> bool:
        """Whether it is of a hub: a Job looks it up, and downloads it to a shared cache."""
        return not self.from_folder and self.source != "baton-tiny"

    @property
    def served_name(self) -> str:
        """What clients call it."""
        return self.name or self.source.rpartition("/")[2]
