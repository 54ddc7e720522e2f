"""From a request to what vLLM's engine process takes: tokens, sampling parameters, a decoder.

Tokenizing runs on vLLM's own renderer threads, and what a structured output asks for is read on a
thread of its own (`structured_output`): off the event loop. The caller has been through
`admission.validation`; what is refused here is what only vLLM can see, such as a text that is too
long once it is tokens, or what a chat template does not take.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import (
    BaseIncrementalDetokenizer,
    IncrementalDetokenizer,
    uses_fast_detokenizer,
)
from vllm.v1.engine.input_processor import InputProcessor

from service.domain import (
    ChatPrompt,
    GenerationRequest,
    Priority,
    Prompt,
    SamplingOptions,
    TokensPrompt,
)
from service.engine.byte_level import ByteLevelDecoder, ByteLevelVocabulary
from service.engine.protocol import RenderedRequest
from service.engine.structured_output import FormChecker, as_vllm_has_it
from service.engine.vllm_chat import ChatRenderer
from service.engine.vllm_tokens import DecodedTokens
from service.errors import FieldViolation, InvalidRequest
from service.stream.text import TokenDecoder

# Tokens of a prompt that a decoder looks at: it needs those of one character, and its own margin.
_PROMPT_END = 64

_SAID = "tokenstream"  # where the scheduler looks for it
_MERGES_LONG_S = 0.1  # in which more tokens may come than a reader is given at first

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
    "logprobs",
)

_MOST_OF_A_REASON = 200  # characters of what vLLM says


class VllmDecoder:
    """vLLM's own incremental decoder, so that every tokenizer it knows gives its own text."""

    __slots__ = ("_detokenizer",)

    def __init__(self, detokenizer: BaseIncrementalDetokenizer) -> None:
        self._detokenizer = detokenizer

    def decode(self, token_ids: Sequence[int]) -> str:
        """See `TokenDecoder`."""
        detokenizer, texts = self._detokenizer, []
        for token_id in token_ids:
            # The slow decoder reads the id from the list, the fast one ignores it.
            detokenizer.token_ids.append(token_id)
            texts.append(detokenizer.decode_next(token_id))
        return "".join(texts)

    def decode_token(self, token_id: int) -> str:
        """See `TokenDecoder`."""
        return self.decode((token_id,))


class NoDecoder:
    """For an engine without a tokenizer: token ids only, no text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return no text."""
        return ""

    def decode_token(self, token_id: int) -> str:
        """Return no text."""
        return ""


class VllmRenderer:
    """Renders requests for one engine. `defaults`: the model's own sampling defaults."""

    def __init__(self, processor: InputProcessor, defaults: Mapping[str, Any]) -> None:
        self._processor = processor
        self._renderer = processor.renderer
        self._model_config = processor.model_config
        self._defaults = dict(defaults)
        # vLLM asks with each request, and the tokenizer would work it out anew each time.
        end_of_text = self._renderer.get_eos_token_id()
        self._renderer.get_eos_token_id = lambda: end_of_text
        self._bytes = _byte_level(self._renderer.tokenizer, self._model_config.get_vocab_size())
        self._token_bytes: Callable[[int], bytes] = (
            DecodedTokens(self._renderer.tokenizer).__getitem__
            if self._bytes is None
            else self._bytes.bytes.__getitem__
        )
        self._chat = ChatRenderer(self._renderer)
        self._forms = FormChecker(processor)

    def close(self) -> None:
        """End the renderer's threads."""
        self._renderer.shutdown()
        self._forms.close()

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        """See `EngineClient.render`."""
        field, prompt, form = "sampling", request.prompt, request.sampling.structured_output
        assert prompt is not None  # it was validated
        try:
            params = self.sampling_params(request.sampling, _said(request))
            if form is not None:
                field = form.path
                await self._forms.check(form, params)
            field = prompt.path
            engine_input = await self._engine_input(prompt)
            process = partial(
                self._processor.process_inputs,
                request_id=engine_id,
                prompt=engine_input,
                params=params,
                supported_tasks=("generate",),
            )
            # vLLM reads a form once more.
            core_request: EngineCoreRequest = (
                process() if form is None else await self._forms.run(process)
            )
        except VLLMClientError as refused:
            # Not its str(): that repeats the value, which is the caller's text. The first line
            # has no internals.
            why = str(refused.args[0] if refused.args else refused).partition("\n")[0]
            why = why[:_MOST_OF_A_REASON] or "is refused"
            raise InvalidRequest((FieldViolation(field, why),)) from refused
        core_request.external_req_id = engine_id
        return RenderedRequest(
            prompt_token_count=len(core_request.prompt_token_ids or ()),
            make_decoder=self._decoder_factory(core_request),
            handle=core_request,
            token_bytes=self._token_bytes,
        )

    async def _engine_input(self, prompt: Prompt) -> Any:
        if isinstance(prompt, TokensPrompt):
            # What vLLM's renderer makes of checked token ids, without its 50 µs.
            engine_input = tokens_input(list(prompt.token_ids))
            engine_input["arrival_time"] = time.time()
            return engine_input
        if isinstance(prompt, ChatPrompt):
            return await self._chat.render(prompt)
        parsed = parse_model_prompt(self._model_config, prompt.text)
        (rendered,) = await self._renderer.render_cmpl_async([parsed])
        return rendered

    def sampling_params(
        self, options: SamplingOptions, extra_args: dict[str, Any] | None = None
    ) -> SamplingParams:
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
        if options.logit_bias:
            chosen["logit_bias"] = dict(options.logit_bias)
        if options.structured_output is not None:
            chosen["structured_outputs"] = as_vllm_has_it(options.structured_output)
        return SamplingParams(
            **chosen,
            stop_token_ids=list(options.stop_token_ids),
            ignore_eos=options.ignore_eos,
            skip_special_tokens=options.skip_special_tokens,
            include_stop_str_in_output=options.include_stop,
            extra_args=extra_args,
            skip_clone=True,  # made for this request alone
        )

    def _decoder_factory(self, core_request: EngineCoreRequest) -> Callable[[], TokenDecoder]:
        """How to make the request's decoders; does not keep the prompt, only its end."""
        vocabulary, params = self._bytes, core_request.sampling_params
        prompt_ids = core_request.prompt_token_ids or []
        if vocabulary is not None and params is not None:
            skip = params.skip_special_tokens
            if vocabulary.starts_clean(prompt_ids, skip_special=skip):
                return partial(ByteLevelDecoder, vocabulary, skip_special=skip)
        end = replace(core_request, prompt_token_ids=prompt_ids[-_PROMPT_END:])
        return partial(_vllm_decoder, self._renderer.tokenizer, end)


def _said(request: GenerationRequest) -> dict[str, Any] | None:
    """What the scheduler is told of a request (`engine_core.settings.Said`), if there is any."""
    said: dict[str, Any] = {}
    if request.tenant:
        said["tenant"] = request.tenant
    if request.delivery.reading_rate is not None:
        said["reading_rate"] = request.delivery.reading_rate
    delay_s = request.delivery.max_delay_s
    if delay_s is not None and delay_s > _MERGES_LONG_S:
        said["slow_start"] = False
    if request.deadline is not None:
        said["deadline"] = request.deadline
    if request.priority is not Priority.NORMAL:
        said["priority"] = request.priority.value
    return {_SAID: said} if said else None


def _vllm_decoder(tokenizer: Any, core_request: EngineCoreRequest) -> TokenDecoder:
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, core_request)
    if isinstance(detokenizer, BaseIncrementalDetokenizer):
        return VllmDecoder(detokenizer)
    return NoDecoder()


def _byte_level(tokenizer: Any, vocab_size: int) -> ByteLevelVocabulary | None:
    """The tokenizer's texts, if vLLM would use its fast decoder and that does no more."""
    if tokenizer is None or not uses_fast_detokenizer(tokenizer):
        return None
    return ByteLevelVocabulary.of(tokenizer._tokenizer.to_str(), vocab_size)
