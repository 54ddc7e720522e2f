"""One request as its client knows it, without any connection."""

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import Delta, Finished, FinishReason, Started, Timings, Usage
from tokenstream_client.answer import Answer

FINISHED = Finished(0, FinishReason.STOP, None, None, Usage(1, 1, 0), Timings(None, 1.0))


def test_a_finished_and_its_end_come_to_a_notified_reader_in_one_call() -> None:
    answer, seen = Answer(pb.GenerateRequest()), list[tuple[bool, bool]]()
    answer.on_started(Started("s", "m", 1, ""))
    answer.on_delta(Delta(0, 0, (1,), "a"))
    answer.changed = lambda: seen.append((answer.finished, answer.ended))
    answer.on_finished(FINISHED)
    assert seen == [(True, True)]


def test_of_a_finished_that_a_failure_can_follow_the_end_comes_by_itself() -> None:
    answer, seen = Answer(pb.GenerateRequest()), list[tuple[bool, bool]]()
    answer.on_started(Started("s", "m", 1, ""))
    answer.changed = lambda: seen.append((answer.finished, answer.ended))
    answer.on_finished(FINISHED, last=False)
    answer.end(None)
    assert seen == [(True, False), (True, True)]
