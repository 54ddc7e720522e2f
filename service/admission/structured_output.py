"""Checks the form that an output is to be kept to: its size, and what it cannot go with.

What it says is read where a request is rendered, off the event loop (`engine.structured_output`).
"""

from collections.abc import Iterator

from service.domain import ModelCard, SamplingOptions, StructuredOutput
from service.errors import FieldViolation

MAX_SCHEMA_BYTES = 64 * 1024
MAX_REGEX_BYTES = 4 * 1024


def check_structured_output(
    sampling: SamplingOptions, form: StructuredOutput, model: ModelCard
) -> Iterator[FieldViolation]:
    """Yield what is wrong with a form."""
    if not model.has_tokenizer:
        yield FieldViolation(form.path, "the model is served without a tokenizer")
    elif form.json_schema is not None:
        yield from _text(form.path, form.json_schema, MAX_SCHEMA_BYTES)
    elif form.regex is not None:
        yield from _text(form.path, form.regex, MAX_REGEX_BYTES)
    elif form.json_object is None:
        yield FieldViolation(form.path, "is empty: set json_object, json_schema or regex")
    elif not form.json_object:
        yield FieldViolation(form.path, "must be true; leave it out for any text")
    if sampling.min_tokens:
        # Where the form is complete, only the end of text is left, and that would be ruled out.
        yield FieldViolation("sampling.min_tokens", "cannot go with structured_output")


def _text(field: str, text: str, most: int) -> Iterator[FieldViolation]:
    size = len(text.encode(errors="replace"))
    if not text:
        yield FieldViolation(field, "is empty")
    elif size > most:
        yield FieldViolation(field, f"has {size} bytes, more than {most}")
    elif "\0" in text:
        yield FieldViolation(field, "contains the character U+0000")
