"""Requests, the model that they are held against, and the fields for which they are refused."""

import dataclasses
import math
from typing import Any

from service.admission import validation
from service.domain import (
    DeliveryOptions,
    GenerationRequest,
    ModelCard,
    OnDisconnect,
    Prompt,
    SamplingOptions,
    TextPrompt,
)
from service.errors import InvalidRequest

MODEL = ModelCard("m", context_length=100, vocab_size=50, has_chat_template=True)
NO_TOKENIZER = dataclasses.replace(MODEL, has_tokenizer=False)
LIMIT = 1000
DETACHED = DeliveryOptions(on_disconnect=OnDisconnect.DETACH)
X = TextPrompt("x")
NAN, INF = math.nan, math.inf


def bad_fields(request: GenerationRequest, model: ModelCard = MODEL) -> list[str]:
    try:
        validation.check_request(request, model, LIMIT)
    except InvalidRequest as refused:
        return [v.field for v in refused.violations if v.description]
    return []


def request(prompt: Prompt = X, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(prompt, sampling=SamplingOptions(**sampling))
