"""vLLM's own offline result for a list of requests: JSON on standard input, JSON in a file.

Run as a program of its own, so that the engine it starts and the one under test never meet.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(model: str, answer_file: str) -> None:
    """Answer all requests with `vllm.LLM` in float32."""
    # All in this process: two that would have to load vLLM are not started.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    requests = json.load(sys.stdin)
    llm = LLM(model, dtype="float32", max_model_len=1024, enforce_eager=True, max_num_seqs=128)
    prompts = [
        r["prompt"] if isinstance(r["prompt"], str) else {"prompt_token_ids": r["prompt"]}
        for r in requests
        if "messages" not in r
    ]
    params = [SamplingParams(**params_of(r)) for r in requests if "messages" not in r]
    generated = iter(llm.generate(prompts, params) if prompts else ())
    outputs = [
        next(generated)
        if "messages" not in r
        else llm.chat(r["messages"], SamplingParams(**params_of(r)), use_tqdm=False)[0]
        for r in requests
    ]
    answers = [answer_of(o, o.outputs[0]) for o in outputs]
    for answer, o in zip(answers, outputs, strict=True):
        if len(o.outputs) > 1:
            answer["choices"] = [answer_of(o, choice) for choice in o.outputs]
    Path(answer_file).write_text(json.dumps(answers))


def answer_of(output: Any, choice: Any) -> dict[str, Any]:
    """One choice's answer as JSON; `logprobs`, if asked for: id, rank and logarithm by token."""
    answer = {
        "text": choice.text,
        "token_ids": list(choice.token_ids),
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "prompt_tokens": len(output.prompt_token_ids),
    }
    if choice.logprobs is not None:
        answer["logprobs"] = [
            [[token_id, likely.rank, likely.logprob] for token_id, likely in place.items()]
            for place in choice.logprobs
        ]
    return answer


def params_of(request: dict[str, Any]) -> dict[str, Any]:
    """A request's parameters; JSON has no integers for keys."""
    params: dict[str, Any] = dict(request["params"])
    if "logit_bias" in params:
        params["logit_bias"] = {int(i): bias for i, bias in params["logit_bias"].items()}
    return params


if __name__ == "__main__":
    main(*sys.argv[1:])
