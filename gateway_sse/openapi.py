"""The bridge's OpenAPI 3.1 document, from what checks the requests: pydantic's models. No I/O.

WebSockets have no place in OpenAPI; the path is named, its messages are described in
`native/websocket`.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway_sse.json_response import json_response
from gateway_sse.native.request import Delivery, StreamRequest
from gateway_sse.native.routes import Acknowledgement, Perceived
from gateway_sse.openai import paths as openai_paths
from gateway_sse.openai import schemas as openai_schemas

PATH: Final = "/openapi.json"

_BODIES: Final[tuple[type[BaseModel], ...]] = (
    StreamRequest,
    Delivery,
    Acknowledgement,
    Perceived,
)

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "reason", "message", "field_violations", "retry_after_s"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "description": "of gRPC, by name"},
                "reason": {"type": "string", "description": "what is wrong, for programs"},
                "message": {"type": "string", "description": "what is wrong, for people"},
                "field_violations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["field", "description"],
                        "properties": {
                            "field": {"type": "string"},
                            "description": {"type": "string"},
                        },
                    },
                },
                "retry_after_s": {"type": ["number", "null"], "minimum": 0},
            },
        }
    },
}

_STATUS: Final = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["ok", "ready", "not ready"]}},
}

_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "the id of the last event that the reader has: the rest is sent, from here or"
    " from any other replica, and a body or query is not looked at but for its delivery",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_~-]{1,64}:[0-9]{1,10}(:(tail|end))?$"},
}
_STREAM_ID: Final = {
    "name": "stream_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}


def routes() -> list[web.RouteDef]:
    """Return the table of what is answered."""
    answer = document()

    async def openapi(_: web.Request) -> web.Response:
        return json_response(answer)

    return [web.get(PATH, openapi)]


def document() -> dict[str, Any]:
    """Return the document. It is made anew with each call."""
    template = "#/components/schemas/{model}"
    _, schemas = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template=template
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tokenstream gateway",
            "version": "1",
            "description": "Language model answers as they are generated: server-sent events,"
            " lines of JSON, or text.",
        },
        "paths": {**_native_paths(schemas["$defs"]), **openai_paths.paths(), **_small_paths()},
        "components": {
            "schemas": {
                **schemas["$defs"],
                **openai_schemas.schemas(),
                "Error": _ERROR,
                "Status": _STATUS,
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the caller's API key, where the service asks for one",
                }
            },
        },
        "security": [{}, {"key": []}],
    }


def _native_paths(schemas: Mapping[str, Any]) -> dict[str, Any]:
    stream = {
        "200": {
            "description": "the answer, as it is generated (gateway_sse/native/events.py)",
            "content": {
                "text/event-stream": {},
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
            },
        },
        "204": {"description": "Last-Event-ID is of the end: nothing is left to send"},
    }
    return {
        "/v1/completions/stream": {
            "post": {
                "operationId": "streamByPost",
                "summary": "Answer a prompt as it is generated",
                "parameters": [_LAST_EVENT_ID],
                "requestBody": _body("StreamRequest"),
                "responses": stream | _errors(400, 401, 403, 404, 406, 408, 409, 413, 415, 429),
            },
            "get": {
                "operationId": "streamByGet",
                "summary": "The same for EventSource, with the request in the query",
                "parameters": [_LAST_EVENT_ID, *_query(schemas["StreamRequest"])],
                "responses": stream | _errors(400, 401, 403, 404, 406, 409, 429),
            },
        },
        "/v1/completions/ws": {
            "get": {
                "operationId": "webSocket",
                "summary": "A WebSocket for many answers (gateway_sse/native/websocket.py)",
                "responses": {"101": {"description": "the socket is open"}}
                | _errors(400, 401, 403, 426, 429),
            }
        },
        "/v1/streams/{stream_id}": {
            "delete": {
                "operationId": "stopStream",
                "summary": "End a running answer: its reader gets its `finished`",
                "parameters": [_STREAM_ID],
                "responses": {"204": {"description": "it was told to end"}}
                | _errors(400, 401, 403, 404, 429),
            }
        },
        "/v1/streams/{stream_id}/ack": {
            "post": {
                "operationId": "acknowledge",
                "summary": "Let an answer go on that was begun with `ack_window`",
                "parameters": [_STREAM_ID],
                "requestBody": _body("Acknowledgement"),
                "responses": {"204": {"description": "noted"}}
                | _errors(400, 404, 408, 413, 415, 429),
            }
        },
        "/v1/perceived": {
            "post": {
                "operationId": "perceived",
                "summary": "Tell what a browser saw of an answer, for the histograms",
                "requestBody": _body("Perceived"),
                "responses": {"204": {"description": "noted"}} | _errors(400, 408, 413, 415, 429),
            }
        },
    }


def _small_paths() -> dict[str, Any]:
    status = {
        "description": "how it is",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}},
    }
    return {
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "Whether this process is alive",
                "security": [],
                "responses": {"200": status},
            }
        },
        "/readyz": {
            "get": {
                "operationId": "readyz",
                "summary": "Whether it takes requests; with upstream=1, the service behind it, too",
                "security": [],
                "parameters": [{"name": "upstream", "in": "query", "schema": {"enum": ["0", "1"]}}],
                "responses": {"200": status, "503": status},
            }
        },
    }


def _body(model: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    """Return responses in the one error form (`problems`); any path may fail by 500, 503, 504."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    retry = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}
    return {
        str(status): {"description": _REASONS[status], "content": content}
        | ({"headers": retry} if status in (429, 503) else {})
        for status in (*statuses, 500, 503, 504)
    }


_REASONS: Final = {
    400: "something is wrong with the request; the field is named",
    401: "the API key is missing or not known",
    403: "the API key may not do this, or the page's origin may not",
    404: "there is no such stream, or it is somebody else's",
    406: "none of the media types that it can have is accepted",
    408: "the body did not come in time",
    409: "the stream cannot be read here now",
    413: "the body is too large",
    415: "the body is not application/json",
    426: "only WebSockets are served here",
    429: "too much is asked for at once",
    500: "a bug",
    503: "the service cannot be reached, or stops",
    504: "the service did not answer in time",
}


def _query(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a model's fields as query parameters, but for those that only JSON can carry."""
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": field.get("description", ""),
            "schema": {key: value for key, value in field.items() if key != "description"},
        }
        for name, field in schema["properties"].items()
        if name != "messages"
    ]
