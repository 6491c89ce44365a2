"""What the operator's role lacks, as the API server's authorizer says it.

A watch that is forbidden tells nothing and keeps all others waiting: kopf begins when everything
has been listed. So each kind is asked for before it is watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from baton_operator.kinds import Kind
from baton_operator.kube.client import ApiError, KubeClient

WATCH_VERBS = ("list", "watch")
# Questions at the same time: each has a connection of its own.
MAX_AT_ONCE = 4
REVIEW = Kind("SelfSubjectAccessReview", "authorization.k8s.io/v1", "selfsubjectaccessreviews")


async def unwatchable(
    client: KubeClient, namespace: str | None, asked: Collection[Kind]
) -> frozenset[Kind]:
    """Those that may not be listed or watched in the namespace (None: in all). Raises ApiError."""
    left = iter([(kind, verb) for kind in asked for verb in WATCH_VERBS])
    forbidden: set[Kind] = set()

    async def ask() -> None:
        for kind, verb in left:
            if not await _may(client, namespace, kind, verb):
                forbidden.add(kind)

    await asyncio.gather(*(ask() for _ in range(MAX_AT_ONCE)))
    return frozenset(forbidden)


async def _may(client: KubeClient, namespace: str | None, kind: Kind, verb: str) -> bool:
    what = {"verb": verb, "group": kind.group, "resource": kind.plural}
    if namespace is not None:
        what["namespace"] = namespace
    body = {
        "apiVersion": REVIEW.api_version,
        "kind": REVIEW.kind,
        "spec": {"resourceAttributes": what},
    }
    try:
        answer = await client.create(REVIEW, None, body)
    except ApiError as error:
        if error.passing:
            raise
        # Not even that may be asked: what is forbidden shows when it is tried.
        return True
    return bool(answer["status"]["allowed"])
