"""The routing table: takes an engine step's batch apart into the streams it belongs to.

No I/O and no awaits: batch in, pushes out. Rules:

1. An engine id is in the table from before its submission until its release: no output can come
   before its stream is there, and outputs after the release are for nobody; they are counted.
2. Work per step is O(outputs): one dictionary look-up and one push each.
3. What one stream's push raises ends that stream alone.
4. `route`, `cancel`, `fail` and `release` answer with the ids that the engine must now be told to
   stop; each id is in such an answer at most once.

Bound: one entry for each admitted request (`admission` limits those).
"""

from collections.abc import Callable
from dataclasses import dataclass

from service.domain import EngineBatch
from service.errors import DeadlineExceeded, RequestFailed, ServiceError
from service.stream.token_stream import TokenStream


@dataclass(slots=True)
class Route:
    """Where one engine id's outputs go.

    `engine_done`: the engine has finished the id, or is being told to stop it.
    """

    stream: TokenStream
    engine_done: bool = False


@dataclass(slots=True)
class RouterCounts:
    """Since the start: tokens handed to streams, tokens for released ids, streams failed here."""

    tokens_routed: int = 0
    tokens_for_nobody: int = 0
    streams_failed: int = 0


@dataclass(frozen=True, slots=True)
class Routed:
    """What a batch asks for: ids to stop; ids whose streams failed, and why (None: the engine)."""

    stop: list[str]
    failures: list[tuple[str, Exception | None]]


class Router:
    """See the rules above."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._with_logprobs = 0  # so that a batch without any pays one comparison an output
        self.counts = RouterCounts()

    def __len__(self) -> int:
        """Number of ids in the table."""
        return len(self._routes)

    def add(self, engine_id: str, stream: TokenStream) -> Route:
        """Enter an id that is not in the table yet."""
        if engine_id in self._routes:
            raise ValueError(f"engine id {engine_id} is in use")
        route = self._routes[engine_id] = Route(stream)
        self._with_logprobs += stream.logprobs is not None
        return route

    def release(self, engine_id: str) -> list[str]:
        """Take an id out, if it is in; what comes for it from now on is for nobody."""
        route = self._routes.pop(engine_id, None)
        if route is None:
            return []
        self._with_logprobs -= route.stream.logprobs is not None
        return self._stop(engine_id, route)

    def cancel(self, engine_id: str) -> list[str] | None:
        """End a stream on purpose. None if no stream of that id is running."""
        route = self._routes.get(engine_id)
        if route is None or not route.stream.cancel():
            return None
        return self._stop(engine_id, route)

    def fail(self, engine_id: str, failure: ServiceError) -> list[str]:
        """End a stream with an error, unless it has ended."""
        route = self._routes.get(engine_id)
        if route is None or not route.stream.fail(failure):
            return []
        return self._stop(engine_id, route)

    def fail_all(self, make_failure: Callable[[], ServiceError]) -> list[str]:
        """End every running stream, each with an error of its own."""
        return [i for engine_id in list(self._routes) for i in self.fail(engine_id, make_failure())]

    def route(self, batch: EngineBatch) -> Routed:
        """Push each output into its stream."""
        stop: list[str] = []
        failures: list[tuple[str, Exception | None]] = []
        routed = lost = 0
        routes, with_logprobs = self._routes, self._with_logprobs > 0
        for output in batch.outputs:
            engine_id = output.request_id
            token_ids = output.new_token_ids
            route = routes.get(engine_id)
            if route is None:
                lost += len(token_ids)
                continue
            routed += len(token_ids)
            stream = route.stream
            try:
                if stream.first_token_at is None:
                    cached = batch.cached_prompt_tokens(output)
                    if cached is not None:
                        stream.cached_prompt_tokens = cached
                if with_logprobs and stream.logprobs is not None and token_ids:
                    stream.take_logprobs(batch.logprobs(output))
                if output.finish_reason is None:
                    if stream.push(token_ids):
                        stop += self._stop(engine_id, route)
                    continue
                route.engine_done = True
                stream.engine_account = batch.account(output)
                finish = batch.explain(output)
                if finish is None and batch.given_up(output):
                    stream.fail(DeadlineExceeded())
                elif finish is None:
                    self.counts.streams_failed += stream.fail(RequestFailed())
                    failures.append((engine_id, None))
                else:
                    stream.push(token_ids, finish)
            except Exception as error:
                self.counts.streams_failed += stream.fail(RequestFailed())
                failures.append((engine_id, error))
                stop += self._stop(engine_id, route)
        self.counts.tokens_routed += routed
        self.counts.tokens_for_nobody += lost
        return Routed(stop, failures)

    def _stop(self, engine_id: str, route: Route) -> list[str]:
        if route.engine_done:
            return []
        route.engine_done = True
        return [engine_id]
