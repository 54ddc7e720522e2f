"""Forms that an output is kept to, checked so that none of them ends or stalls the engine.

What is known of vLLM 0.32.0, and what is done about it:

- Which library reads the forms is settled by the first request of an engine, unless it is named
  (`vllm_args` names llguidance). That one bounds its own work, token by token; xgrammar does not: a
  regular expression of 4 KiB can take it minutes, gigabytes, or a fifth of a second each token.
- What llguidance makes of a form costs milliseconds, but for repetitions that are counted in
  millions: those are refused here (`form_costs`).
- The first set of allowed tokens is made here, with the engine's own tokenizer. What fails there
  (it cannot be read, nothing can satisfy it, it is too large) would fail in the engine.
- What fails later, because only the answer leads there, fails that request alone
  (`engine_core.grammars`).

All of it runs on a thread of its own, one form after the other: the library releases the
interpreter, so neither the event loop nor those who only tokenize wait for it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.structured_output.backend_guidance import (
    GuidanceBackend,
    serialize_guidance_grammar,
)
from vllm.v1.structured_output.request import get_structured_output_key

from service.domain import StructuredOutput
from service.engine.form_costs import why_too_costly

_T = TypeVar("_T")

# As in the engine process (`engine_core.grammars`, which is not imported here).
LIMITS: dict[str, Any] = {
    "max_lexer_states": 50_000,
    "step_lexer_fuel": 50_000,
    "verbose_errors": False,
}

_GUIDANCE = "guidance"
_MARK = "error: "  # before the reason, where the library quotes a regular expression


def as_vllm_has_it(form: StructuredOutput) -> StructuredOutputsParams:
    """vLLM's parameters for a form."""
    return StructuredOutputsParams(
        json=form.json_schema, regex=form.regex, json_object=form.json_object
    )


class FormChecker:
    """Checks forms for one engine."""

    def __init__(self, processor: InputProcessor) -> None:
        self._processor = processor
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="structured-output")
        self._tokens: Any = None  # the library's view of the tokenizer, once somebody needs it

    def close(self) -> None:
        """End the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, form: StructuredOutput, params: SamplingParams) -> None:
        """Raise vLLM's `VLLMValidationError` for a form that the engine cannot work with."""
        await self.run(partial(self._check, form, params))

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do something on the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _check(self, form: StructuredOutput, params: SamplingParams) -> None:
        if why := why_too_costly(form):
            raise VLLMValidationError(why)
        try:
            self._read(params)
        except VLLMValidationError:
            raise
        except BaseException as error:  # also what a panic in the library is raised as
            raise VLLMValidationError(_reason(str(error))) from error

    def _read(self, params: SamplingParams) -> None:
        processor, config = self._processor, self._processor.structured_outputs_config
        tokenizer = processor.tokenizer
        if config.backend == _GUIDANCE and GuidanceBackend.is_tokenizer_supported(tokenizer):
            kind, text = get_structured_output_key(params.structured_outputs)
            grammar = serialize_guidance_grammar(
                kind, text, config.disable_any_whitespace, config.disable_additional_properties
            )
            self._begin(grammar)
        params.verify(processor.model_config, processor.speculative_config, config, tokenizer)

    def _begin(self, grammar: str) -> None:
        import llguidance
        from llguidance.torch import allocate_token_bitmask, fill_next_token_bitmask

        if self._tokens is None:
            self._tokens = GuidanceBackend._build_ll_tokenizer(
                self._processor.tokenizer, self._processor.model_config.get_vocab_size()
            )
        limits = llguidance.LLParserLimits(**LIMITS)
        matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        if not (why := matcher.get_error()):
            fill_next_token_bitmask(matcher, allocate_token_bitmask(1, self._tokens.vocab_size), 0)
            why = "nothing can satisfy it" if matcher.is_error() else ""
        if why:
            raise VLLMValidationError(_reason(why))


def _reason(said: str) -> str:
    """The one line of what the library says that says why."""
    lines = said.strip().splitlines() or ["cannot be read"]
    return next((line[len(_MARK) :] for line in lines if line.startswith(_MARK)), lines[0])
