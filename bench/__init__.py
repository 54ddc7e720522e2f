"""The benchmark: our service and vLLM's own servers over one simulated engine, in one table.

`python -m bench` runs it (`main`). `known_tokens` and `simulated_executor` are also of use alone:
an engine without a model whose every token a client can check.
"""
