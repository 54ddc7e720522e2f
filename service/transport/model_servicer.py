"""`tokenstream.v1.ModelService`: what is served, and text to tokens and back."""

from typing import Any

import grpc
from google.protobuf.message import Message

from service.admission import validation
from service.admission.gate import Gate
from service.domain import ModelCard
from service.engine.protocol import EngineClient
from service.transport.authentication import Authenticator
from service.transport.convert import from_model
from service.transport.status import answering
from tokenstream.v1 import model_pb2, model_pb2_grpc


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Answers from the engine, while the gate is open; what costs time takes a place."""

    def __init__(
        self,
        engine: EngineClient,
        gate: Gate,
        authenticator: Authenticator,
        max_request_bytes: int,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._authenticator = authenticator
        self._max_request_bytes = max_request_bytes

    @answering
    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> model_pb2.ListModelsResponse:
        """All models."""
        return model_pb2.ListModelsResponse(models=[from_model(self._model(request, context))])

    @answering
    async def GetModel(
        self, request: model_pb2.GetModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> model_pb2.GetModelResponse:
        """One model."""
        model = self._model(request, context, request.model)
        return model_pb2.GetModelResponse(model=from_model(model))

    @answering
    async def Tokenize(
        self, request: model_pb2.TokenizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> model_pb2.TokenizeResponse:
        """Text to token ids."""
        validation.check_text(request.text, self._model(request, context, request.model))
        special = not request.HasField("add_special_tokens") or request.add_special_tokens
        with self._gate.admitted():
            ids = await self._engine.tokenize(request.text, add_special_tokens=special)
        return model_pb2.TokenizeResponse(token_ids=ids)

    @answering
    async def Detokenize(
        self, request: model_pb2.DetokenizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> model_pb2.DetokenizeResponse:
        """Token ids to text."""
        validation.check_token_ids(request.token_ids, self._model(request, context, request.model))
        skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        with self._gate.admitted():
            text = await self._engine.detokenize(request.token_ids, skip_special_tokens=skip)
        return model_pb2.DetokenizeResponse(text=text)

    def _model(
        self, request: Message, context: grpc.aio.ServicerContext[Any, Any], name: str = ""
    ) -> ModelCard:
        """Check what all calls have in common, and give the model they ask for."""
        self._authenticator.caller_of(context.invocation_metadata())
        self._gate.check_open()
        validation.check_size(request.ByteSize(), self._max_request_bytes)
        validation.check_model(name, self._engine.model)
        return self._engine.model
