"""TLS for gRPC: credentials that follow the files which they come from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from baton.telemetry.certificates import Certificates, Identity


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """For a port. Clients need a certificate where `certificates` name the authorities."""
    given = certificates.latest()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks at every handshake, from threads of its own; None: nothing new.
        nonlocal given
        latest = certificates.latest()
        if latest is given:
            return None
        given = latest
        return _configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        fetch,  # type: ignore[arg-type]  # the stubs know nothing of None
        require_client_authentication=given.ca is not None,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.cert)], root_certificates=identity.ca
    )


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """For a client that shows `identity` and trusts its authorities."""
    return grpc.ssl_channel_credentials(identity.ca, identity.key, identity.cert)


class _Generation:
    """One channel, and how many calls it has open."""

    __slots__ = ("channel", "num_calls")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.num_calls = 0


class RenewedChannel:
    """A channel whose new calls use the certificate of today.

    gRPC gives a channel its credentials once and for all, so another certificate takes another
    channel. The one before is closed after its last call.
    """

    def __init__(
        self, certificates: Certificates, connect: Callable[[Identity], grpc.aio.Channel]
    ) -> None:
        self._certificates = certificates
        self._connect = connect
        self._identity = certificates.latest()
        self._current = _Generation(connect(self._identity))
        self._old: set[_Generation] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def _latest(self) -> _Generation:
        identity = self._certificates.latest()
        if identity is not self._identity:
            self._identity = identity
            before, self._current = self._current, _Generation(self._connect(identity))
            self._old.add(before)
            self._close_if_done(before)
        return self._current

    def _close_if_done(self, generation: _Generation) -> None:
        if generation in self._old and not generation.num_calls:
            self._old.discard(generation)
            closing = asyncio.ensure_future(generation.channel.close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _calls(self, make: Callable[[grpc.aio.Channel], Any]) -> Any:
        of = self._current
        multi_callable = make(of.channel)

        def call(*args: Any, **kw: Any) -> Any:
            nonlocal of, multi_callable
            latest = self._latest()
            if latest is not of:
                of, multi_callable = latest, make(latest.channel)
            latest.num_calls += 1
            begun = multi_callable(*args, **kw)

            def done(_: Any) -> None:
                latest.num_calls -= 1
                self._close_if_done(latest)

            begun.add_done_callback(done)
            return begun

        return call

    def unary_unary(self, *args: Any, **kw: Any) -> Any:
        return self._calls(lambda channel: channel.unary_unary(*args, **kw))

    def unary_stream(self, *args: Any, **kw: Any) -> Any:
        return self._calls(lambda channel: channel.unary_stream(*args, **kw))

    def stream_unary(self, *args: Any, **kw: Any) -> Any:
        return self._calls(lambda channel: channel.stream_unary(*args, **kw))

    def stream_stream(self, *args: Any, **kw: Any) -> Any:
        return self._calls(lambda channel: channel.stream_stream(*args, **kw))

    async def close(self, grace: float | None = None) -> None:
        """Of all generations."""
        generations = [self._current, *self._old]
        self._old.clear()
        await asyncio.gather(*(each.channel.close(grace) for each in generations), *self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._latest().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._latest().channel.channel_ready()
