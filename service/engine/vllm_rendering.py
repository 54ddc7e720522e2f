"""From a request to what vLLM's engine process takes: tokens, sampling parameters, a decoder.

Tokenizing runs on vLLM's own renderer threads, off the event loop. The caller has been through
`admission.validation`; what is refused here is what only vLLM can see, such as a text that is too
long once it is tokens.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer
from vllm.v1.engine.input_processor import InputProcessor

from service.domain import GenerationRequest, SamplingOptions, TextPrompt, TokensPrompt
from service.engine.protocol import RenderedRequest
from service.errors import FieldViolation, InvalidRequest
from service.stream.text import TokenDecoder

# Ours and vLLM's names of the options that it takes as they are.
_PLAIN_OPTIONS = (
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


class VllmDecoder:
    """vLLM's own incremental decoder, so that every tokenizer it knows gives its own text."""

    __slots__ = ("_detokenizer",)

    def __init__(self, detokenizer: BaseIncrementalDetokenizer) -> None:
        self._detokenizer = detokenizer

    def decode(self, token_id: int) -> str:
        """Take the next token; return the text that became certain, possibly none."""
        # The slow decoder reads the id from the list, the fast one ignores it.
        self._detokenizer.token_ids.append(token_id)
        return str(self._detokenizer.decode_next(token_id))


class NoDecoder:
    """For an engine without a tokenizer: token ids only, no text."""

    def decode(self, token_id: int) -> str:
        """Return no text."""
        return ""


class VllmRenderer:
    """Renders requests for one engine. `defaults`: the model's own sampling defaults."""

    def __init__(self, processor: InputProcessor, defaults: Mapping[str, Any]) -> None:
        self._processor = processor
        self._renderer = processor.renderer
        self._model_config = processor.model_config
        self._defaults = dict(defaults)

    def close(self) -> None:
        """End the renderer's threads."""
        self._renderer.shutdown()

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        """See `EngineClient.render`."""
        with _refused_as("sampling"):
            params = self.sampling_params(request.sampling)
        prompt_field = "text" if isinstance(request.prompt, TextPrompt) else "token_ids.ids"
        with _refused_as(prompt_field):
            prompt = parse_model_prompt(self._model_config, _vllm_prompt(request))
            (engine_input,) = await self._renderer.render_cmpl_async([prompt])
            core_request: EngineCoreRequest = self._processor.process_inputs(
                request_id=engine_id,
                prompt=engine_input,
                params=params,
                supported_tasks=("generate",),
            )
        core_request.external_req_id = engine_id
        prompt_ids = core_request.prompt_token_ids or []
        return RenderedRequest(
            prompt_token_count=len(prompt_ids),
            decoder=self._decoder(core_request),
            handle=core_request,
        )

    def sampling_params(self, options: SamplingOptions) -> SamplingParams:
        """vLLM's sampling parameters: the request's own over the model's over vLLM's defaults.

        Stop strings stay here: the engine process does not look for them, `stream.text` does.
        """
        chosen: dict[str, Any] = {"max_tokens": None} | self._defaults
        for name in _PLAIN_OPTIONS:
            value = getattr(options, name)
            if value is not None:
                chosen[name] = value
        if options.max_tokens is not None:
            chosen["max_tokens"] = options.max_tokens
        return SamplingParams(
            **chosen,
            stop_token_ids=list(options.stop_token_ids),
            ignore_eos=options.ignore_eos,
            skip_special_tokens=options.skip_special_tokens,
            include_stop_str_in_output=options.include_stop,
            skip_clone=True,  # made for this request alone
        )

    def _decoder(self, core_request: EngineCoreRequest) -> TokenDecoder:
        detokenizer = IncrementalDetokenizer.from_new_request(
            self._renderer.tokenizer, core_request
        )
        if isinstance(detokenizer, BaseIncrementalDetokenizer):
            return VllmDecoder(detokenizer)
        return NoDecoder()


@contextmanager
def _refused_as(field: str) -> Iterator[None]:
    """Name the field that vLLM refuses; the first line of its words has no internals."""
    try:
        yield
    except VLLMClientError as refused:
        # Not its str(): that repeats the value, which is the caller's text.
        why = str(refused.args[0] if refused.args else refused).partition("\n")[0]
        raise InvalidRequest((FieldViolation(field, why),)) from refused


def _vllm_prompt(request: GenerationRequest) -> Any:
    match request.prompt:
        case TextPrompt(text):
            return text
        case TokensPrompt(token_ids):
            return {"prompt_token_ids": list(token_ids)}
        case None:
            raise ValueError("a request is validated before it is rendered")
