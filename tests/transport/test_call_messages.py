from array import array

import pytest

from service.domain import (
    EngineFinish,
    Finished,
    FinishReason,
    LikelyToken,
    Started,
    Timings,
    TokenLogprobs,
    Usage,
)
from service.transport.call_messages import CallMessages
from tokenstream.v1 import generation_pb2 as pb

STARTED = Started("id", "m", 3, "mine")
FINISHED = Finished(EngineFinish(FinishReason.STOP, "END"), Usage(3, 2, 1), Timings(0.5, 1.25))


@pytest.fixture
def messages() -> CallMessages:
    return CallMessages(pb.GenerateResponse)


def test_a_start(messages: CallMessages) -> None:
    assert messages.started(STARTED) == pb.GenerateResponse(
        started=pb.Started(stream_id="id", model="m", prompt_tokens=3, client_request_id="mine")
    )


def test_an_end(messages: CallMessages) -> None:
    finished = messages.finished(FINISHED).finished
    assert (finished.reason, finished.stop_string) == (pb.FINISH_REASON_STOP, "END")


def test_a_delta_of_several_tokens(messages: CallMessages) -> None:
    messages.add(0, 5, (1, 0), "x")
    assert messages.taken() == pb.GenerateResponse(
        delta=pb.Delta(first_token_index=5, token_ids=[1, 0], text="x")
    )


def test_a_delta_of_one_token_is_the_same_in_either_way(messages: CallMessages) -> None:
    messages.add_token(2, 5, 2**32 - 1, "x")
    short = messages.taken()
    messages.add(2, 5, [2**32 - 1], "x")
    assert short == messages.taken()
    assert short == pb.GenerateResponse(
        delta=pb.Delta(choice_index=2, first_token_index=5, token_ids=[2**32 - 1], text="x")
    )


def test_a_delta_with_log_probabilities(messages: CallMessages) -> None:
    logprobs = TokenLogprobs(
        -0.5, b"\xe2", (LikelyToken(7, -0.25, b"a"), LikelyToken(0, -4.0, b""))
    )
    messages.add(0, 5, (1,), "", (logprobs,))
    message = messages.taken()
    assert message is not None
    assert message.delta == pb.Delta(
        first_token_index=5,
        token_ids=[1],
        logprobs=[
            pb.TokenLogprobs(
                logprob=-0.5,
                token=b"\xe2",
                likeliest=[
                    pb.LikelyToken(token_id=7, logprob=-0.25, token=b"a"),
                    pb.LikelyToken(token_id=0, logprob=-4.0),
                ],
            )
        ],
    )


def test_a_delta_of_a_streams_own_array(messages: CallMessages) -> None:
    messages.add(0, 0, array("I", [7, 2**32 - 1]), "")
    message = messages.taken()
    assert message is not None
    assert list(message.delta.token_ids) == [7, 2**32 - 1]


def test_what_was_taken_is_handed_over_once(messages: CallMessages) -> None:
    assert messages.taken() is None
    messages.add_token(0, 0, 1, "a")
    first = messages.taken()
    assert messages.taken() is None
    messages.add_token(0, 1, 2, "b")
    assert messages.taken() != first


def test_a_resumed_stream_has_the_same_messages(messages: CallMessages) -> None:
    resumed = CallMessages(pb.ResumeResponse)
    for either in (messages, resumed):
        either.add_token(0, 5, 1, "x")
    pairs = (
        (resumed.started(STARTED), messages.started(STARTED)),
        (resumed.taken(), messages.taken()),
        (resumed.finished(FINISHED), messages.finished(FINISHED)),
    )
    for again, first in pairs:
        assert isinstance(again, pb.ResumeResponse)
        assert first is not None
        assert again.SerializeToString() == first.SerializeToString()
