"""The routing table: takes an engine step's batch apart into the streams it belongs to.

No I/O and no awaits: batch in, pushes out. Rules:

1. An engine id is in the table from before its submission until its release: no output can come
   before its stream is there, and outputs after the release are for nobody; they are counted.
2. Work per step is O(outputs): one dictionary look-up and one push each.
3. What one stream's push raises ends that stream alone.
4. `route` answers with the ids that the engine must stop: their stop string completed, or their
   stream failed. `release` says whether the engine may still be working on the id.

Bound: one entry for each admitted request (`admission` limits those).
"""

from dataclasses import dataclass

from service.domain import EngineBatch
from service.errors import RequestFailed, ServiceError
from service.stream.token_stream import TokenStream


@dataclass(slots=True)
class Route:
    """Where one engine id's outputs go. `engine_done`: the engine has forgotten the id."""

    stream: TokenStream
    cached_prompt_tokens: int = 0
    engine_done: bool = False


@dataclass(slots=True)
class RouterCounts:
    """Since the start: tokens handed to streams, tokens for released ids, streams failed here."""

    tokens_routed: int = 0
    tokens_for_nobody: int = 0
    streams_failed: int = 0


class Router:
    """See the rules above."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self.counts = RouterCounts()
        self.last_failure: Exception | None = None

    def __len__(self) -> int:
        """Number of ids in the table."""
        return len(self._routes)

    def add(self, engine_id: str, stream: TokenStream) -> Route:
        """Enter an id that is not in the table yet."""
        if engine_id in self._routes:
            raise ValueError(f"engine id {engine_id} is in use")
        route = self._routes[engine_id] = Route(stream)
        return route

    def stream(self, engine_id: str) -> TokenStream | None:
        """The stream of an id; None if there is none."""
        route = self._routes.get(engine_id)
        return None if route is None else route.stream

    def release(self, engine_id: str) -> bool:
        """Take an id out; True if the engine has not said that it is done with it."""
        route = self._routes.pop(engine_id, None)
        return route is not None and not route.engine_done

    def route(self, batch: EngineBatch) -> list[str]:
        """Push each output into its stream; return the ids that the engine must stop."""
        stop: list[str] = []
        routed = lost = 0
        routes = self._routes
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
                        route.cached_prompt_tokens = cached
                if output.finish_reason is None:
                    if stream.push(token_ids):
                        stop.append(engine_id)
                    continue
                route.engine_done = True
                finish = batch.explain(output)
                if finish is None:
                    self._fail(stream, RequestFailed())
                else:
                    stream.push(token_ids, finish)
            except Exception as error:
                self.last_failure = error
                self._fail(stream, RequestFailed())
                if not route.engine_done:
                    stop.append(engine_id)
        self.counts.tokens_routed += routed
        self.counts.tokens_for_nobody += lost
        return stop

    def fail_all(self, failure: ServiceError) -> None:
        """End every stream that has not ended; the engine is gone or the service stops."""
        for route in self._routes.values():
            route.stream.fail(failure)

    def _fail(self, stream: TokenStream, failure: ServiceError) -> None:
        if stream.fail(failure):
            self.counts.streams_failed += 1
