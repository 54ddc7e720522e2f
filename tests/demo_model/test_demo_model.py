"""The demo model's files, its corpus, and what it answers, without vLLM."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import demo_model
from demo_model import corpus
from demo_model.batches import Rows, chat
from demo_model.check import Student
from demo_model.tokenizer import END, EOS, build
from demo_model.train import train

TAUGHT = {question: entry.answer for entry in corpus.load() for question in entry.questions}


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(demo_model.path())


def test_the_folder_of_weights_stays_below_15_megabytes() -> None:
    files = list(demo_model.path().iterdir())
    assert sum(file.stat().st_size for file in files) < 15_000_000
    assert (demo_model.path() / "model.safetensors") in files


def test_generation_config_names_both_endings_and_no_sampling_setting(student: Student) -> None:
    text = (demo_model.path() / "generation_config.json").read_text("utf-8")
    endings = student.tokenizer.convert_tokens_to_ids([EOS, END])
    assert json.loads(text) == {
        "eos_token_id": endings,
        "pad_token_id": student.tokenizer.pad_token_id,
    }


def test_no_question_is_in_the_corpus_twice() -> None:
    counts = Counter(corpus.bare(q) for entry in corpus.load() for q in entry.questions)
    assert [question for question, count in counts.items() if count > 1] == []


def test_every_entry_has_two_wordings_or_more_and_one_answer_of_its_own() -> None:
    entries = corpus.load()
    assert len(entries) >= 150
    assert all(len(entry.questions) >= 2 for entry in entries)
    assert len({entry.answer for entry in entries}) == len(entries)


@pytest.mark.parametrize("text", ["## Lonely?\n\nanswer\n", "## No answer?\n- none\n\n## Next?\n"])
def test_an_incomplete_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Lonely|No answer"):
        corpus.parse(text)


def test_the_tokenizer_gives_every_corpus_text_back_unchanged(student: Student) -> None:
    for question, answer in TAUGHT.items():
        text = f"{question}\n{answer}"
        assert student.tokenizer.decode(student.tokenizer.encode(text)) == text


def test_the_saved_tokenizer_is_the_one_the_corpus_gives(student: Student) -> None:
    assert build(corpus.load()).get_vocab() == student.tokenizer.get_vocab()


def test_a_question_and_its_answer_have_the_same_tokens_apart_and_together(
    student: Student,
) -> None:
    encode = student.tokenizer.encode
    for question, answer in TAUGHT.items():
        assert encode(question) + encode(f"\n{answer}") == encode(f"{question}\n{answer}")


def test_a_rare_character_is_split_into_several_tokens(student: Student) -> None:
    ids = student.tokenizer.encode("🐇")
    assert len(ids) > 1
    assert "\ufffd" in student.tokenizer.decode(ids[:1])


def test_the_chat_template_renders_roles_turns_and_the_place_of_the_answer(
    student: Student,
) -> None:
    assert chat(student.tokenizer, "What is gRPC?", system="Be kind.") == (
        "<|system|>\nBe kind.<|end|>\n<|user|>\nWhat is gRPC?<|end|>\n<|assistant|>\n"
    )
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert student.tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n"
    )


def test_a_row_hides_the_first_question_from_the_loss_and_shows_the_answer(
    student: Student,
) -> None:
    inputs, labels = next(Rows(student.tokenizer, corpus.load(), seed=1).batches(2048))
    assert inputs.shape == labels.shape == (16, 128)
    assert (labels[:, 0] == -100).all()
    assert ((labels == inputs) | (labels == -100)).all()
    assert (labels != -100).any(dim=1).all()


@pytest.mark.parametrize(
    "question",
    ["What is gRPC?", "what is a token", "What is back-pressure?", "How do I start tokenstream?"],
)
def test_a_taught_question_is_answered_word_for_word(student: Student, question: str) -> None:
    answer = next(a for q, a in TAUGHT.items() if corpus.bare(q) == corpus.bare(question))
    assert student.answers([question], 150) == [answer]


def test_a_taught_question_in_a_chat_is_answered_word_for_word(student: Student) -> None:
    prompt = chat(student.tokenizer, "Who are you?")
    assert student.answers([prompt], 150) == [TAUGHT["Who are you?"]]


@pytest.fixture
def _torch_settings_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("_torch_settings_restored")
def test_two_short_trainings_write_the_same_weights(tmp_path: Path) -> None:
    assert train(tmp_path / "first", steps=3) == train(tmp_path / "second", steps=3)
