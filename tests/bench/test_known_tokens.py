import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import demo_model
from bench.known_tokens import DEMO_COUNT, DEMO_FIRST, KnownTokens, seed_of

prompts = st.lists(st.integers(0, 2**32 - 1), max_size=20)


def test_tokens_stay_what_they_were() -> None:
    # Figures of different days are only comparable if the engine says the same.
    assert KnownTokens().answer([300, 301, 302], 5) == [481, 422, 295, 314, 357]


@given(prompts, st.integers(0, 2**31))
def test_a_token_depends_on_prompt_and_position_alone(prompt: list[int], position: int) -> None:
    known = KnownTokens(100, 50)
    token = known.token(seed_of(prompt), position)
    assert token == known.token(seed_of(tuple(prompt)), position)
    assert 100 <= token < 150


@given(prompts, st.integers(0, 50), st.integers(0, 50))
def test_a_longer_answer_begins_with_the_shorter_one(prompt: list[int], a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert KnownTokens().answer(prompt, long)[:short] == KnownTokens().answer(prompt, short)


def test_answers_of_neighbouring_prompts_have_little_in_common() -> None:
    known = KnownTokens()
    answers = [known.answer(known.prompt(n, 32), 200) for n in range(50)]
    for n, answer in enumerate(answers):
        for other in answers[:n]:
            same = sum(a == b for a, b in zip(answer, other, strict=True))
            assert same < 20  # by chance: 200 / 249


@pytest.mark.parametrize("length", [2, 32])
def test_no_two_numbers_have_the_same_prompt(length: int) -> None:
    known = KnownTokens()
    made = {tuple(known.prompt(n, length)) for n in range(5000)}
    assert len(made) == 5000
    assert {len(prompt) for prompt in made} == {length}


def test_every_known_token_of_the_demo_model_is_whole_characters_and_ends_nothing() -> None:
    from tokenizers import Tokenizer

    folder: Path = demo_model.path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = json.loads((folder / "config.json").read_text())["eos_token_id"]
    special = {token["id"] for token in json.loads(tokenizer.to_str())["added_tokens"]}
    ids = range(DEMO_FIRST, DEMO_FIRST + DEMO_COUNT)
    assert not special.union(ends).intersection(ids)
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in ids]
    assert all(texts)
    assert not any("\ufffd" in text for text in texts)
    assert tokenizer.decode(list(ids)) == "".join(texts)
