"""The Lease that lets one operator act: taken before anything is watched, held, given back.

The record is that of Kubernetes' own leader election (coordination.k8s.io). A standby never
compares clocks of two machines: it takes over when it has not seen the record change for the
record's duration by its own clock. The holder counts from before it sent its last successful
renewal, and stops at its deadline, which is earlier.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import ceil

from baton.telemetry.logging import event
from baton_operator import kinds
from baton_operator.kube.client import ApiError, KubeClient, Manifest
from baton_operator.settings import OperatorSettings

log = logging.getLogger(__name__)


class LeaseLostError(Exception):
    """Another may act from now on: the process has to end."""


class Rivalry:
    """Whether the Lease may be taken, from what was seen of it; no clock but `now`, in seconds."""

    def __init__(self, identity: str, duration_s: float) -> None:
        self._identity = identity
        self._duration_s = duration_s
        self._seen: tuple[object, ...] | None = None
        self._since = 0.0

    def may_take(self, lease: Manifest, now: float) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if not holder or holder == self._identity:
            return True
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= (spec.get("leaseDurationSeconds") or self._duration_s)


class LeaseHolder:
    """One Lease; `acquire`, then `hold` until it raises, then `release`."""

    def __init__(
        self,
        client: KubeClient,
        settings: OperatorSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._rivalry = Rivalry(settings.identity, settings.lease_duration_s)
        self._lease: Manifest | None = None
        self._renewed_at: float | None = None

    @property
    def held(self) -> bool:
        """Whether this process may act now."""
        renewed_at = self._renewed_at
        return renewed_at is not None and self._left_s(renewed_at) > 0

    async def acquire(self) -> None:
        """Wait, for as long as it takes, until the Lease is ours."""
        while True:
            if await self._try_acquire():
                break
            await asyncio.sleep(self._settings.lease_retry_s)
        log.info(*event("lease_acquired", lease=self._settings.lease_name))

    async def hold(self) -> None:
        """Renew until that fails for too long. Raises LeaseLostError, never returns."""
        assert self._renewed_at is not None, "acquire first"
        while True:
            left_s = self._left_s(self._renewed_at)
            await asyncio.sleep(max(0.0, min(self._settings.lease_retry_s, left_s)))
            left_s = self._left_s(self._renewed_at)
            if left_s <= 0:
                self._renewed_at = None
                raise LeaseLostError(
                    f"not renewed for {self._settings.lease_deadline_s:g} s: another may act now"
                )
            try:
                async with asyncio.timeout(left_s):
                    await self._renew()
            except TimeoutError:
                continue
            except ApiError as error:
                log.warning(*event("lease_not_renewed", reason=str(error)))

    async def release(self) -> None:
        """Let a standby take over at once. A failure only makes it wait for the duration."""
        if self._lease is None or not self.held:
            return
        self._renewed_at = None
        try:
            async with asyncio.timeout(self._settings.lease_retry_s):
                await self._give_back(self._lease)
        except (ApiError, TimeoutError) as error:
            log.warning(*event("lease_not_released", reason=str(error) or "timeout"))
        else:
            log.info(*event("lease_released", lease=self._settings.lease_name))

    async def _give_back(self, lease: Manifest) -> None:
        """Raises ApiError."""
        freed = {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._replace({**lease, "spec": {**lease["spec"], **freed}})
        except ApiError as error:
            if not error.conflict:
                raise
            # A renewal that was cut off may have been done; its answer was not read.
            found = await self._read()
            holder = ((found or {}).get("spec") or {}).get("holderIdentity")
            if found is None or holder != self._settings.identity:
                raise
            await self._replace({**found, "spec": {**found["spec"], **freed}})

    async def _try_acquire(self) -> bool:
        asked_at = self._clock()
        try:
            lease = await self._read()
            if lease is None:
                lease = await self._create()
            elif self._rivalry.may_take(lease, asked_at):
                lease = await self._replace({**lease, "spec": self._spec(lease)})
            else:
                return False
        except ApiError as error:
            # A conflict is another standby that was faster.
            if not error.conflict:
                log.warning(*event("lease_not_acquired", reason=str(error)))
            return False
        self._lease, self._renewed_at = lease, asked_at
        return True

    async def _renew(self) -> None:
        assert self._lease is not None
        asked_at = self._clock()
        renewed = {**self._lease, "spec": {**self._lease["spec"], "renewTime": _now()}}
        try:
            self._lease = await self._replace(renewed)
        except ApiError as error:
            if not error.conflict and not error.not_found:
                raise
            await self._renew_changed()
        self._renewed_at = asked_at

    async def _renew_changed(self) -> None:
        """Someone wrote the Lease or deleted it: it is ours still unless it says otherwise."""
        lease = await self._read()
        if lease is None:
            self._lease = await self._create()
            return
        holder = (lease.get("spec") or {}).get("holderIdentity")
        if holder != self._settings.identity:
            self._renewed_at = None
            raise LeaseLostError(f"the Lease was taken by {holder or 'nobody'}")
        self._lease = await self._replace({**lease, "spec": self._spec(lease)})

    async def _read(self) -> Manifest | None:
        try:
            return await self._client.get(
                kinds.LEASE, self._settings.own_namespace, self._settings.lease_name
            )
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _create(self) -> Manifest:
        body = {
            "apiVersion": kinds.LEASE.api_version,
            "kind": kinds.LEASE.kind,
            "metadata": {
                "name": self._settings.lease_name,
                "namespace": self._settings.own_namespace,
            },
            "spec": self._spec({}),
        }
        return await self._client.create(kinds.LEASE, self._settings.own_namespace, body)

    async def _replace(self, lease: Manifest) -> Manifest:
        return await self._client.replace(
            kinds.LEASE, self._settings.own_namespace, self._settings.lease_name, lease
        )

    def _spec(self, old: Manifest) -> Manifest:
        before = old.get("spec") or {}
        ours = before.get("holderIdentity") == self._settings.identity
        now = _now()
        return {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": ceil(self._settings.lease_duration_s),
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": (before.get("leaseTransitions") or 0) + (not ours and bool(before)),
        }

    def _left_s(self, renewed_at: float) -> float:
        return renewed_at + self._settings.lease_deadline_s - self._clock()


def _now() -> str:
    """For people and other tools; nothing here reads it back."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
