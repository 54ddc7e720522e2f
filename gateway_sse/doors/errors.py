"""The one boundary that turns exceptions into HTTP answers, in the form that their path has."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway_sse.bridge import bridge_of
from gateway_sse.json_response import json_response
from gateway_sse.openai.errors import body_of, is_openai_path
from gateway_sse.problems import (
    INTERNAL,
    Problem,
    Refused,
    problem_from_error,
    problem_from_http,
)
from gateway_sse.request_log import note_refusal
from tokenstream_client import TokenstreamError

_log = logging.getLogger("tokenstream.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_API: Final = "/v1/"
# What answers that still run may need of their clients to end.
_OF_RUNNING: Final = ("/v1/streams/", "/v1/perceived")
_OTHER: Final = "other"  # paths that nobody knows are one label, however many there are


@web.middleware
async def errors_answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what a handler raised, and count what was answered."""
    streams = bridge_of(request).streams
    # What running answers need can be had nowhere else.
    is_new = request.path.startswith(_API) and not request.path.startswith(_OF_RUNNING)
    try:
        if is_new:
            streams.check_open()
        response = await handler(request)
    except asyncio.CancelledError:
        raise  # the client has gone
    except ConnectionError:
        raise
    except web.HTTPException as error:
        response = problem_response(
            request, problem_from_http(error.status, error.reason or ""), dict(error.headers)
        )
    except Refused as refused:
        response = problem_response(request, refused.problem)
    except TokenstreamError as error:
        response = problem_response(request, problem_from_error(streams.explain(error)))
    except Exception:
        _log.exception("a request failed: %s %s", request.method, _route(request))
        if request.writer.output_size:
            # The answer has begun; another head in it would be read as text.
            raise ConnectionResetError("the answer is broken off") from None
        response = problem_response(request, INTERNAL)
    if streams.draining and is_new and not response.prepared:
        response.force_close()  # the next request is to find another replica
    bridge_of(request).metrics.responded(_route(request), response.status)
    return response


def _route(request: web.Request) -> str:
    """A path without what is said in it."""
    resource = request.match_info.route.resource
    return _OTHER if resource is None else resource.canonical


def problem_response(
    request: web.Request, problem: Problem, headers: dict[str, str] | None = None
) -> web.Response:
    """Return a problem as JSON; count it and note it for the log."""
    reason = problem.reason or problem.code
    bridge_of(request).metrics.refused(reason)
    note_refusal(reason)
    kept = {name: value for name, value in (headers or {}).items() if name.lower() == "allow"}
    body = body_of(problem) if is_openai_path(request.path) else problem.body()
    return json_response(
        body,
        status=problem.status,
        headers={"cache-control": "no-cache", **problem.headers(), **kept},
    )
