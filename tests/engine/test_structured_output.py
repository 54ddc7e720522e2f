"""Forms, as far as they can be told without an engine."""

import asyncio
import threading
from typing import Any

import pytest

from service.domain import GenerationRequest, SamplingOptions, StructuredOutput, TextPrompt
from service.errors import InvalidRequest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

SCHEMA = StructuredOutput(json_schema='{"type": "object", "properties": {"a": {}}}')


def rendered(renderer: Any, form: StructuredOutput) -> Any:
    options = SamplingOptions(structured_output=form)
    request = GenerationRequest(TextPrompt("x"), sampling=options)
    return asyncio.run(renderer.render("id", request)).handle


@pytest.mark.parametrize(
    ("form", "theirs"),
    [
        (SCHEMA, ("json", SCHEMA.json_schema)),
        (StructuredOutput(regex="[ab]+"), ("regex", "[ab]+")),
        (StructuredOutput(json_object=True), ("json_object", True)),
    ],
)
def test_a_form_becomes_vllms_own_with_the_library_named(
    parts: tuple[Any, Any], form: StructuredOutput, theirs: tuple[str, Any]
) -> None:
    outputs = rendered(parts[0], form).sampling_params.structured_outputs
    assert getattr(outputs, theirs[0]) == theirs[1]
    assert outputs._backend == "guidance"


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (StructuredOutput(regex="(("), "unclosed group"),
        (StructuredOutput(regex=r"[^\s\S]"), "nothing can satisfy it"),
        (StructuredOutput(regex="a{30000}"), "repeats something more than 20000 times in all"),
        (StructuredOutput(json_schema='{"oneOf": [{}, {}]}'), "oneOf"),
        (StructuredOutput(json_schema='{"$ref": "#"}'), "nothing can satisfy it"),
        (StructuredOutput(json_schema="{"), "is not JSON"),
    ],
)
def test_a_bad_form_is_refused_with_a_reason(
    parts: tuple[Any, Any], form: StructuredOutput, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        rendered(parts[0], form)
    (violation,) = refused.value.violations
    assert violation.field == form.path
    assert reason in violation.description


def test_a_form_is_never_read_on_the_event_loop(
    parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm.v1.structured_output.backend_guidance as backend

    threads = []
    serialize = backend.serialize_guidance_grammar

    def noted(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return serialize(*args, **kwargs)

    monkeypatch.setattr(backend, "serialize_guidance_grammar", noted)
    rendered(parts[0], SCHEMA)
    assert threads
    assert threading.main_thread() not in threads


def test_the_door_has_the_engines_own_bounds() -> None:
    from service.engine import structured_output
    from service.engine_core import grammars

    assert structured_output.LIMITS == grammars.LIMITS


def test_a_bounded_backend_is_where_vllm_looks_for_one() -> None:
    import vllm.v1.structured_output as theirs

    from service.engine_core import grammars

    grammars.install()
    assert theirs.GuidanceBackend is grammars.BoundedBackend
