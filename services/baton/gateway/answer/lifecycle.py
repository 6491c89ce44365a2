"""The life of a generating call, whichever API it came by: taken in, then submitted to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from baton.core.errors import BatonError
from baton.gateway import errors
from baton.gateway.answer.base import Answer
from baton.gateway.api.prepare import ServedModel
from baton.gateway.context import NO_MODEL, Context
from baton.gateway.keys.access import settle
from baton.telemetry.logging import event

log = logging.getLogger(__name__)


class Intake:
    """A call that is read and checked. `series` counts it, by model once that is known."""

    __slots__ = ("_api", "context", "request_id", "series")

    def __init__(self, context: Context, api: str, request_id: str) -> None:
        self.context = context
        # What its client calls it, as far as is known.
        self.request_id = request_id
        self.series = context.series(NO_MODEL, api)
        self._api = api

    def model(self, name: str | None) -> ServedModel:
        """The model that it names, which it is counted with from now on.

        Raises ModelNotFoundError, InvalidRequestError.
        """
        model = self.context.model(name)
        self.series = self.context.series(model.name, self._api)
        return model


@contextlib.contextmanager
def counted(context: Context, api: str, request_id: str) -> Iterator[Intake]:
    """All of a call before it is submitted: what it raises is counted. Raises BatonError only."""
    call = Intake(context, api, request_id)
    try:
        yield call
    except BatonError as error:
        call.series.ended(error.code)
        raise
    except Exception as bug:
        log.exception(*event("request_failed", request_id=call.request_id))
        call.series.ended(BatonError.code)
        raise errors.internal(bug) from bug


@contextlib.asynccontextmanager
async def under_way(context: Context, answer: Answer) -> AsyncIterator[None]:
    """From the submission to the end, with whatever brings the answer to its client inside.

    Raises BatonError only, unless something has been sent: then a bug goes on as it is.
    """
    answer.metrics.begin()
    try:
        context.answers.add(answer)
        answer.submit(context.generator)
        yield
    except BatonError as error:
        answer.fail(error)
        raise
    except asyncio.CancelledError:
        # A client's cancellation or deadline, or the server cuts off what does not end in time.
        answer.client_gone()
        raise
    except Exception as bug:
        log.exception(*event("request_failed", request_id=answer.request_id))
        internal = errors.internal(bug)
        answer.fail(internal)
        if answer.has_begun:
            # The server cuts the connection off: nothing else tells the client.
            raise
        raise internal from bug
    finally:
        context.answers.remove(answer)
        answer.metrics.end(answer, answer.request_id)
        settle(answer)
        context.records.ended(answer)
