"""Forms inside the engine process, without an engine."""

from typing import Any

import pytest

from tests.engine_core.by_hand import vllm_config

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

# So many states that some bound is met after a few tokens.
TOO_MUCH_LATER = "(.*a.{200}b.*)|(.*c.{150}d.*)|(.*[e-k].{170}z.*)"


@pytest.fixture(scope="module")
def backend() -> Any:
    from vllm.tokenizers import cached_tokenizer_from_config

    from service.engine_core.grammars import BoundedBackend

    config = vllm_config(max_num_seqs=8)
    tokenizer = cached_tokenizer_from_config(model_config=config.model_config)
    return BoundedBackend(config, tokenizer=tokenizer, vocab_size=2048)


def regex(backend: Any, pattern: str) -> Any:
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions

    return backend.compile_grammar(StructuredOutputOptions.REGEX, pattern)


def step(backend: Any, grammar: Any, text: str) -> bool:
    """Make the mask, as the engine does before each token, and take a token."""
    grammar.fill_bitmask(backend.allocate_token_bitmask(1), 0)
    (token_id,) = backend.tokenizer.encode(text, add_special_tokens=False)
    return bool(grammar.accept_tokens("id", [token_id]))


def test_what_matches_is_taken_to_its_end(backend: Any) -> None:
    grammar = regex(backend, "ab")
    assert step(backend, grammar, "a")
    assert step(backend, grammar, "b")
    assert step(backend, grammar, "<|endoftext|>")
    assert grammar.is_terminated()


def test_what_cannot_be_read_raises(backend: Any) -> None:
    with pytest.raises(ValueError, match="the form cannot be worked with"):
        regex(backend, "((")


def test_an_end_is_no_good_end_once_a_bound_was_met(backend: Any) -> None:
    grammar = regex(backend, TOO_MUCH_LATER)
    for _ in range(100):
        for letter in "xeaqcyhg":
            if not step(backend, grammar, letter):
                assert grammar.ll_matcher.is_error()
                assert not step(backend, grammar, "<|endoftext|>")
                return
    pytest.fail("no bound was met")
