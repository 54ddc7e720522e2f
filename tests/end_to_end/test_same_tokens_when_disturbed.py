"""Parking, evicting and going on change no token of the real engine, whatever is asked for."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import demo_model
from tests.end_to_end.known_requests import QUESTIONS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "engine_core" / "disturbed.py"
DISTURBED = "tests.engine_core.disturbed.DisturbedScheduler"
OF_A_KIND = 16
KINDS = ("greedy", "seeded with penalties", "structured")
# Too few blocks for what runs at once, so that vLLM preempts by itself.
SHORT_CACHE = {"num_gpu_blocks_override": 40, "block_size": 32}

WAYS: dict[str, dict[str, Any]] = {
    "undisturbed": {"scheduler": None, "seed": 0},
    "disturbed": {"scheduler": DISTURBED, "seed": 1},
    "disturbed, prefills in chunks": {
        "scheduler": DISTURBED,
        "seed": 2,
        "max_num_batched_tokens": 64,
        # Only greedy ones: vLLM 0.32's CPU engine dies of seeded sampling with a chunked prefill,
        # whatever schedules ("CPU Generator does not use offset").
        "every": len(KINDS),
        "enable_prefix_caching": False,
    },
    "disturbed, with a short cache": {"scheduler": DISTURBED, "seed": 3} | SHORT_CACHE,
}

STRUCTURES: tuple[dict[str, Any], ...] = (
    {"regex": r"[a-z]{3,9}( [a-z]{2,7}){8,20}\."},
    {"choice": ["a stream of tokens that flows", "a token of streams that stops", "neither"]},
    {"regex": r"\d{1,3}(\.\d{1,3}){12}"},
    {
        "json": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 30},
                "count": {"type": "integer", "maximum": 99999},
            },
            "required": ["name", "count"],
            "additionalProperties": False,
        }
    },
)


def some_requests() -> list[dict[str, Any]]:
    """As many of each kind, the same on every machine."""
    chance = random.Random(20261122)
    requests = []
    for number in range(OF_A_KIND):
        prompt = QUESTIONS[number % len(QUESTIONS)]
        length = chance.choice((30, 50, 70, 90))
        requests += [
            {
                "prompt": prompt + " " * (number // len(QUESTIONS)),
                "params": {
                    "temperature": 0.0,
                    "max_tokens": length,
                    "ignore_eos": True,
                    "logprobs": 2,
                },
            },
            {
                "prompt": prompt,
                "params": {
                    "temperature": chance.choice((0.8, 1.2)),
                    "seed": number,
                    "max_tokens": length,
                    "ignore_eos": True,
                    "repetition_penalty": 1.2,
                    "presence_penalty": 0.5,
                    "frequency_penalty": 0.2,
                },
            },
            {
                "prompt": prompt,
                "params": {
                    "temperature": 1.0,
                    "seed": 1000 + number,
                    "max_tokens": 60,
                    "structured_outputs": STRUCTURES[number % len(STRUCTURES)],
                },
            },
        ]
    return requests


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of the same requests in every way; one program for all of them."""
    answer_file = tmp_path_factory.mktemp("disturbed") / "answers.json"
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(demo_model.path()), str(answer_file)],
        input=json.dumps({"requests": some_requests(), "ways": WAYS}),
        text=True,
        check=False,
        timeout=300,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert ran.returncode == 0, ran.stderr[-6000:]
    answers: dict[str, Any] = json.loads(answer_file.read_text())
    return answers


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        (way, kind)
        for way, options in WAYS.items()
        for kind in KINDS[: len(KINDS) if "every" not in options else 1]
        if way != "undisturbed"
    ],
)
def test_the_tokens_are_those_of_vllms_own_scheduler(
    done: dict[str, Any], way: str, kind: str
) -> None:
    of_kind = slice(KINDS.index(kind), None, len(KINDS))
    expected = done["undisturbed"]["answers"][of_kind]
    answers = done[way]["answers"]
    if "every" not in WAYS[way]:
        answers = answers[of_kind]
    assert len(expected) == OF_A_KIND
    for number, (got, vllms) in enumerate(zip(answers, expected, strict=True)):
        for what in ("token_ids", "text", "finish_reason"):
            assert got[what] == vllms[what], f"{what} of {kind} {number}"
        assert len(got["logprobs"]) == len(vllms["logprobs"])
        for ours, theirs in zip(got["logprobs"], vllms["logprobs"], strict=True):
            assert [(t, rank) for t, _, rank in ours] == [(t, rank) for t, _, rank in theirs]
            # A batch of another size adds up in another order.
            assert [p for _, p, _ in ours] == pytest.approx([p for _, p, _ in theirs], abs=1e-4)
    # The test says little if the answers were all alike.
    assert len({str(a["token_ids"]) for a in expected}) > OF_A_KIND / 2


@pytest.mark.parametrize("way", [way for way in WAYS if way != "undisturbed"])
def test_requests_really_were_parked_and_evicted(done: dict[str, Any], way: str) -> None:
    report = done[way]["report"]
    assert report["failures"] == 0
    assert report["parked"] == report["parked_away"] == 0
    answered = len(done[way]["answers"])
    assert report["parkings"] > 2 * answered
    assert report["evicted_by_us"] > answered / 3
    assert report["evicted_parked"] > answered / 10
    assert report["recomputed_tokens"] > 10 * answered
    by_vllm = report["preemptions"] - report["evicted_by_us"]
    assert (by_vllm > 5) == (way == "disturbed, with a short cache")


def test_structured_answers_have_their_structure(done: dict[str, Any]) -> None:
    for number, answer in enumerate(done["disturbed"]["answers"][2 :: len(KINDS)]):
        structure = STRUCTURES[number % len(STRUCTURES)]
        if "choice" in structure:
            assert answer["text"] in structure["choice"]
        if "json" in structure and answer["finish_reason"] == "stop":
            assert set(json.loads(answer["text"])) == {"name", "count"}
