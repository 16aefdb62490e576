"""One thread owns the engine; requests join and leave its batch between two tokens."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from penala.engines.engine import Engine, Generation, NewToken
from penala.errors import EngineError

log = logging.getLogger(__name__)

Deliver = Callable[[NewToken | Exception], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """A request and where its tokens go."""

    request: Generation
    deliver: Deliver


class Batcher:
    """Write replies for many callers of an event loop with one engine. Use it between `start` and `close`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inbox: queue.SimpleQueue[tuple[str, _Order | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after its current step."""
        self._inbox.put(("close", None))
        self._thread.join()

    async def tokens(self, request: Generation, deadline: float) -> AsyncGenerator[NewToken, None]:
        """Yield the tokens of a reply; closing the generator before the last one cancels the request.

        Raises TimeoutError at `deadline` (of the loop's clock), EngineError when the engine fails.
        """
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[NewToken | Exception] = asyncio.Queue()

        def deliver(item: NewToken | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(arrived.put_nowait, item)

        order = _Order(request, deliver)
        self._inbox.put(("add", order))
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await arrived.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            self._inbox.put(("cancel", order))

    def _run(self) -> None:
        numbers: dict[_Order, int] = {}
        orders: dict[int, _Order] = {}
        idle = True
        while self._take(numbers, orders, wait=idle):
            try:
                tokens = self._engine.step()
            except Exception as error:  # a request ends here; the process and the other requests go on
                log.exception("the engine failed with %d replies under way", len(orders))
                self._engine.reset()
                for order in orders.values():
                    order.deliver(EngineError(f"the engine failed: {error}", fix="see the deployment's log"))
                numbers.clear()
                orders.clear()
                tokens = []
            idle = not tokens
            for token in tokens:
                order = orders[token.request]
                order.deliver(token)
                if token.finish_reason is not None:
                    del orders[token.request], numbers[order]

    def _take(self, numbers: dict[_Order, int], orders: dict[int, _Order], *, wait: bool) -> bool:
        """Empty the inbox into the engine; with `wait`, wait for the first letter. Return False at the end."""
        while True:
            try:
                verb, order = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            wait = False
            if order is None:
                return False
            if verb == "add":
                try:
                    number = self._engine.add(order.request)
                except EngineError as error:
                    order.deliver(error)
                    continue
                numbers[order], orders[number] = number, order
            elif order in numbers:  # else it has ended
                number = numbers.pop(order)
                del orders[number]
                self._engine.cancel(number)
