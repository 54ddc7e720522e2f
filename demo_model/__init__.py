"""The demo model: a tiny Llama that knows a few hundred answers about streaming.

It lets the service be tried without a download and without a GPU.
Importing this package loads nothing heavy; the trainer needs torch and transformers.
"""

from pathlib import Path


def path() -> Path:
    """Return the folder of the weights, in the layout that vLLM and transformers load."""
    return Path(__file__).resolve().parent / "weights"
