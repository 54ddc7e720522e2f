"""Bounds of what a structured output may cost the engine, and no answer that only looks complete.

vLLM 0.32.0 lets llguidance have its defaults: half a gigabyte for one hostile request, and a tenth
of a second in a step. And where a form fails within an answer, because a bound is met, vLLM lets
the answer end as if it were complete. Here the bounds are lower, and such an answer fails; one
whose form cannot be worked with at all fails before its first step. The service refuses most of
these at its door, with the same bounds (`engine.structured_output`).
"""

from typing import Any

import vllm.v1.structured_output as vllm_structured_output
from vllm.v1.structured_output import backend_guidance
from vllm.v1.structured_output.backend_guidance import (
    GuidanceBackend,
    GuidanceGrammar,
    serialize_guidance_grammar,
)

# In llguidance's own units: 50,000 states are some 100 MB, so much fuel is some 20 ms a step. An
# ordinary schema takes a hundredth of either.
LIMITS: dict[str, Any] = {
    "max_lexer_states": 50_000,
    "step_lexer_fuel": 50_000,
    "verbose_errors": False,
}


class BoundedGrammar(GuidanceGrammar):
    """One request's form."""

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """See `StructuredOutputGrammar`; False makes vLLM fail the request."""
        return not self.ll_matcher.is_error() and bool(super().accept_tokens(request_id, tokens))


class BoundedBackend(GuidanceBackend):
    """Reads forms."""

    def compile_grammar(
        self, request_type: Any, grammar_spec: str, stop_token_ids: set[int] | None = None
    ) -> BoundedGrammar:
        """See `StructuredOutputBackend`. Raises ValueError for what cannot be worked with."""
        llguidance = backend_guidance.llguidance
        matcher = llguidance.LLMatcher(
            self.ll_tokenizer,
            serialize_guidance_grammar(
                request_type,
                grammar_spec,
                self.disable_any_whitespace,
                self.disable_additional_properties,
            ),
            log_level=0,  # what it says repeats the form, which is a caller's
            limits=llguidance.LLParserLimits(**LIMITS),
        )
        if matcher.get_error():
            raise ValueError("the form cannot be worked with")
        return BoundedGrammar(
            ll_matcher=matcher, ll_tokenizer=self.ll_tokenizer, vocab_size=self.vocab_size
        )


def install() -> None:
    """Put these in the place of vLLM's, which looks for them there by name."""
    vllm_structured_output.GuidanceBackend = BoundedBackend
