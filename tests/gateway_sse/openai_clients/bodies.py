"""The least that OpenAI's requests say."""

from typing import Any

HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "demo", "messages": HI}
COMPLETION: dict[str, Any] = {"model": "demo", "prompt": "Hi"}
