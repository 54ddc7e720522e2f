"""How far ahead of its acknowledgements an answer may go, for clients that pace themselves.

Rules:

1. No token from the limit on is sent; what is in one delta with an earlier one is.
2. An end waits behind what is held back; a failure does not.
3. A client that is waited for, and acknowledges nothing for the stall limit, has stalled.
"""

import asyncio
from collections.abc import Callable


class AckWindow:
    """See the rules above. `window`: tokens; None: any number, and nobody is waited for.

    `on_stalled` is called once.
    """

    __slots__ = ("_limit", "_on_stalled", "_stall_limit_s", "_timer", "_window")

    def __init__(
        self,
        window: int | None,
        position: int,
        stall_limit_s: float,
        on_stalled: Callable[[], None],
    ) -> None:
        """`position`: where the client begins."""
        self._window = window
        self._limit = None if window is None else position + window
        self._stall_limit_s = stall_limit_s
        self._on_stalled = on_stalled
        self._timer: asyncio.TimerHandle | None = None

    def lets(self, position: int) -> bool:
        """Tell whether the token of this index may go; if not, the client is waited for."""
        if self._limit is None or position < self._limit:
            return True
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._stall_limit_s, self._on_stalled)
        return False

    def acknowledge(self, next_token_index: int) -> bool:
        """Take notice of how far the client is; tell whether more may go for it."""
        if self._limit is None or self._window is None:
            return False
        limit = next_token_index + self._window
        if limit <= self._limit:
            return False
        self._limit = limit
        self.close()
        return True

    def close(self) -> None:
        """Wait for nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
