"""OpenAI's paths as the bridge's OpenAPI document has them. No I/O."""

from typing import Any, Final

_SCHEMAS: Final = "#/components/schemas/OpenAI"

_REASONS: Final = {
    400: "something is wrong with the request; `param` names the field",
    401: "the API key is missing or not known",
    403: "the API key may not do this",
    404: "there is no such model",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is not application/json",
    429: "too much is asked for at once",
    500: "a bug",
    503: "the service cannot be reached, or stops",
    504: "the service did not answer in time",
}


def paths() -> dict[str, Any]:
    """Return them; their schemas are those of `schemas`."""
    return {
        "/v1/completions": {
            "post": _generating(
                "createCompletion", "Continue a prompt", "CompletionRequest", "Completion"
            )
        },
        "/v1/chat/completions": {
            "post": _generating(
                "createChatCompletion", "Continue a conversation", "ChatRequest", "ChatCompletion"
            )
        },
        "/v1/models": {
            "get": {
                "operationId": "listModels",
                "summary": "What the service serves",
                "responses": {"200": _json("all of it", "ModelListBody")} | _errors(401, 403, 429),
            }
        },
        "/v1/models/{model}": {
            "get": {
                "operationId": "getModel",
                "summary": "One model",
                "parameters": [
                    {
                        "name": "model",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "minLength": 1},
                    }
                ],
                "responses": {"200": _json("it", "ModelBody")} | _errors(401, 403, 404, 429),
            }
        },
    }


def _generating(operation: str, summary: str, request: str, answer: str) -> dict[str, Any]:
    whole = _json("the answer; with `stream`, its chunks as server-sent events", answer)
    whole["content"]["text/event-stream"] = {}
    return {
        "operationId": operation,
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _SCHEMAS + request}}},
        },
        "responses": {"200": whole} | _errors(400, 401, 403, 404, 408, 413, 415, 429),
    }


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _SCHEMAS + schema}}}
    return {"description": description, "content": content}


def _errors(*statuses: int) -> dict[str, Any]:
    return {
        str(status): _json(_REASONS[status], "ErrorBody") for status in (*statuses, 500, 503, 504)
    }
