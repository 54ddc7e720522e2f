"""Trains the demo model: ``python -m demo_model.train`` writes ``demo_model/weights``.

Needs torch and transformers, two cores and about a quarter of an hour. The same machine
and versions give the same file again.
"""

import argparse
import hashlib
import json
import math
import os
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import demo_model
from demo_model import corpus
from demo_model.batches import Rows
from demo_model.tokenizer import CONTEXT, END, EOS, build

SEED = 20261122
STEPS = 1500
TOKENS = 2048
WARMUP = 60
PEAK_RATE = 2.5e-3
THREADS = 2


def config(eos: list[int], pad: int, vocabulary: int) -> LlamaConfig:
    """Return the shape of the model: 3.5 million parameters, 4 layers, heads of 64."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,  # vLLM's attention on CPUs takes only some sizes
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        use_cache=True,
    )


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step (0-based): a linear warm-up, then a cosine to 2 %."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(out: Path, steps: int = STEPS, seed: int = SEED) -> str:
    """Train tokenizer and model from nothing, write both to ``out``.

    Args:
        out: folder for the weights; made if missing.
        steps: optimiser steps of 2,048 tokens each, at least 1.
        seed: start of all random numbers.

    Returns:
        The SHA-256 of ``model.safetensors``, in hexadecimal.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)

    entries = corpus.load()
    tokenizer = build(entries)
    eos = [tokenizer.convert_tokens_to_ids(token) for token in (EOS, END)]
    model = LlamaForCausalLM(config(eos, tokenizer.pad_token_id, len(tokenizer)))
    size = sum(weight.numel() for weight in model.parameters())
    print(f"{len(entries)} answers, {len(tokenizer)} tokens, {size / 1e6:.2f} million parameters")

    model.train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    started = time.monotonic()
    mean = 0.0
    batches = Rows(tokenizer, entries, seed).batches(TOKENS)
    for step, (inputs, labels) in zip(range(steps), batches, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps)
        loss = model(input_ids=inputs, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            took = time.monotonic() - started
            print(f"step {step + 1}/{steps}  loss {mean:.3f}  {took:.0f} s", flush=True)

    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    # Only what ends an answer: every other setting stays vLLM's own default.
    endings = json.dumps({"eos_token_id": eos, "pad_token_id": tokenizer.pad_token_id}, indent=2)
    (out / "generation_config.json").write_text(endings + "\n", "utf-8")
    weights = out / "model.safetensors"
    weights.chmod(0o644)  # transformers writes it for its owner alone
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m demo_model.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=demo_model.path(), help="folder to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="random seed (%(default)s)")
    arguments = parser.parse_args()
    print("sha256", train(arguments.out, arguments.steps, arguments.seed))


if __name__ == "__main__":
    main()
