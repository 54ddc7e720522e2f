"""Builds the demo model's tokenizer: byte-level BPE, learned from the corpus alone."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo_model.corpus import Entry

VOCABULARY = 2048
CONTEXT = 2048
EOS = "<|endoftext|>"
END = "<|end|>"
PAD = "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('The roles are system, user and assistant.') -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] | trim + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}
"""


def build(entries: list[Entry]) -> Any:
    """Learn a vocabulary of at most 2,048 tokens and return a transformers fast tokenizer."""
    bpe = Tokenizer(models.BPE())
    # No prefix space: the plain form puts a line break between question and answer,
    # and what the tokenizer decodes has to be exactly what it encoded.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        # Rare signs stay split into bytes, so that streams meet cut characters.
        min_frequency=3,
        special_tokens=[EOS, PAD, *ROLES, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [text for entry in entries for text in (*entry.questions, entry.answer)]
    bpe.train_from_iterator(texts + [text.lower() for text in texts], trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[*ROLES, END],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
