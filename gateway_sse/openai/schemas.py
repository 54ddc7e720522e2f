"""The JSON Schemas of OpenAI's paths, for the bridge's OpenAPI document. No I/O."""

from typing import Any, Final, Literal

from pydantic import TypeAdapter

from gateway_sse.openai.answers import ChatCompletion, Completion
from gateway_sse.openai.chat_request import ChatRequest
from gateway_sse.openai.completion_request import CompletionRequest
from gateway_sse.openai.errors import ErrorBody
from gateway_sse.openai.models import ModelBody, ModelListBody

_PREFIX: Final = "OpenAI"
_BODIES: Final[tuple[type, ...]] = (
    ChatRequest,
    CompletionRequest,
    ChatCompletion,
    Completion,
    ErrorBody,
    ModelBody,
    ModelListBody,
)


def schemas() -> dict[str, dict[str, Any]]:
    """Return them by name, with what they refer to: `components.schemas` of the document.

    ``OpenAIChatRequest`` and ``OpenAICompletionRequest`` are the requests; ``OpenAIChatCompletion``
    and ``OpenAICompletion`` the answers in one piece; ``OpenAIErrorBody`` the body of each failure;
    ``OpenAIModelBody`` and ``OpenAIModelListBody`` the models.
    """
    mode: Literal["validation"] = "validation"
    inputs = [(body.__name__, mode, TypeAdapter[Any](body)) for body in _BODIES]
    _, shared = TypeAdapter.json_schemas(
        inputs, ref_template=f"#/components/schemas/{_PREFIX}{{model}}"
    )
    return {_PREFIX + name: schema for name, schema in shared["$defs"].items()}
