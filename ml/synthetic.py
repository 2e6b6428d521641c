"""Asks a language model behind OpenAI's API for stories in Pushkin's manner; the door to openai.

    client = connect(key, base_url)
    with Store(path) as store:
        writing = Writing(client, Request("gpt-4o-mini", price), store, Budget(1.0, store.tally))
        await writing.run(orders, concurrency=8)

The client's own retrying is off: it hides time-outs, each of which may have been charged, and
tries again when the account is empty. Here every try is held against the budget and, when it
may have been charged, written down.
"""

import asyncio
import email.utils
import json
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletion

from ml.synthetic_plan import Order, Request, SyntheticError, body, worst_cost, worst_tokens
from ml.synthetic_store import LOST, Budget, Line, Store

T = TypeVar("T")
Client = openai.AsyncOpenAI
StatusError = openai.APIStatusError

LONGEST_WAIT = 600.0  # seconds; a server that asks for more means: come back another day
BAD_IN_A_ROW = 3  # stories given up one after another: something is wrong with all of them
NOT_THE_API = "OPENAI_BASE_URL answers, but not as OpenAI's API does"
# The transport errors, by name, that come before a request is sent; httpx is openai's to choose.
_UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}


class RefusedError(SyntheticError):
    """This one request gets no answer, however often it is tried."""


class StoppedError(SyntheticError):
    """Somebody asked to stop while the request waited for its next try."""


@dataclass(frozen=True)
class Patience:
    """How often to try, and the pauses between: doubling, in seconds, each cut by up to a half."""

    tries: int = 7
    first: float = 1.0
    longest: float = 60.0

    def pause(self, tried: int, error: openai.APIError) -> float:
        """Return the seconds to wait after the ``tried``-th try; a server's word goes first."""
        own = min(self.first * 2.0 ** (tried - 1), self.longest) * random.uniform(0.5, 1.0)
        asked = retry_after(error)
        return own if asked is None else asked + self.first * random.uniform(0.0, 0.5)


def connect(key: str, base_url: str, timeout: float = 180.0) -> Client:
    """Return a client; ``timeout`` is how many seconds one answer may take."""
    return Client(api_key=key, base_url=base_url, timeout=timeout, max_retries=0)


def line_of(
    order: Order, request: Request, answer: ChatCompletion, batch: str | None = None
) -> Line:
    """Turn an answer into a line; one that does not say what it used counts as the worst case.

    Raises SyntheticError if it has another shape: openai hands on what it gets unchecked.
    """
    prompt, completion = worst_tokens(order, request)
    try:
        choice = next(iter(answer.choices), None)
        text = (choice.message.content or "").strip() if choice and choice.message else ""
        reason = str((choice.finish_reason if choice else None) or "none")
        used = (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else ()
    except (AttributeError, TypeError):
        raise SyntheticError(NOT_THE_API) from None
    if used and all(isinstance(count, int) and count >= 0 for count in used):
        prompt, completion = used
    text = text.encode("utf-8", "replace").decode()  # half a surrogate cannot be kept
    return Line(
        id=order.id,
        theme=order.theme.text,
        group=order.theme.group,
        number=order.number,
        text=text,
        model=str(answer.model or request.model),
        finish_reason=reason,
        good=reason == "stop" and bool(text),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=round(request.price.of(prompt, completion), 9),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        temperature=request.temperature,
        batch=batch,
    )


def answer_of(body: dict[str, Any]) -> ChatCompletion:
    """Return the answer that a batch's result holds, as leniently as openai reads any other."""
    return ChatCompletion.construct(**body)


def lost_line(order: Order, request: Request) -> Line:
    """Return the line of a request that was sent and got no answer: charged or not, who knows."""
    nothing = answer_of({"model": request.model, "choices": []})
    return Line(**{**vars(line_of(order, request, nothing)), "finish_reason": LOST})


def retry_after(error: openai.APIError) -> float | None:
    """Return the seconds a server asks to wait: a number or a date, RFC 9110, 10.2.3."""
    if not isinstance(error, StatusError):
        return None
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            return max(seconds, 0.0) if math.isfinite(seconds) else None
    with suppress(KeyError, TypeError, ValueError):
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max((date - datetime.now(UTC)).total_seconds(), 0.0)
    return None


def passing(error: openai.APIError) -> bool:
    """Say whether the same request may well be answered a little later."""
    if isinstance(error, StatusError):
        again = error.status_code in (408, 409, 429) or error.status_code >= 500
        return again and error.code != "insufficient_quota"
    return isinstance(error, openai.APIConnectionError)


def maybe_charged(error: openai.APIError) -> bool:
    """Say whether the server may have written, and charged for, an answer that never came."""
    unsent = type(error.__cause__).__name__ in _UNSENT
    return isinstance(error, openai.APIConnectionError) and not unsent


def explain(error: openai.APIError) -> SyntheticError:
    """Return the error in one line; a RefusedError if it says nothing about other requests."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    why = " ".join(str(said or error.message).split())
    if isinstance(error, openai.AuthenticationError):
        return SyntheticError(f"OPENAI_API_KEY is refused: {why}")
    if isinstance(error, StatusError):
        alone = passing(error) or error.status_code in (400, 422)
        message = f"the server answers {error.status_code}: {why}"
        return RefusedError(message) if alone else SyntheticError(message)
    if not isinstance(error, openai.APIConnectionError):
        return SyntheticError(f"{NOT_THE_API}: {why}")
    cause = f" ({error.__cause__})" if str(error.__cause__ or "") else ""
    return RefusedError(f"no answer from the server: {why}{cause}")


async def pause_or_stop(seconds: float, stop: asyncio.Event) -> None:
    """Wait. Raises StoppedError as soon as ``stop`` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    if stop.is_set():
        raise StoppedError("stopped")


Pause = Callable[[float, asyncio.Event], Awaitable[None]]


async def persist(
    send: Callable[[], Awaitable[T]],
    stop: asyncio.Event,
    patience: Patience | None = None,
    pause: Pause = pause_or_stop,
) -> T:
    """Send until there is an answer. Raises SyntheticError, or the RefusedError among them."""
    patience = patience or Patience()
    tried = 0
    while True:
        tried += 1
        try:
            return await send()
        except openai.APIError as error:
            seconds = patience.pause(tried, error)
            if tried == patience.tries or not passing(error) or seconds > LONGEST_WAIT:
                raise explain(error) from error
            await pause(seconds, stop)


@dataclass
class Writing:
    """A run: keeps ``concurrency`` requests under way until the orders, or the money, are out."""

    client: Client
    request: Request
    store: Store
    budget: Budget
    patience: Patience = field(default_factory=Patience)
    pause: Pause = pause_or_stop
    on_line: Callable[[Line], None] = lambda _: None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    why: str | None = None  # it stopped before the end
    refused: list[str] = field(default_factory=list)
    _in_a_row: int = 0

    async def run(self, orders: Sequence[Order], concurrency: int) -> None:
        """Write; the first error that concerns all is raised when what was under way has come."""
        waiting = iter(orders)
        async with asyncio.TaskGroup() as workers:
            tasks = [workers.create_task(self._work(waiting)) for _ in range(concurrency)]
        for error in filter(None, (task.result() for task in tasks)):
            raise error

    def halt(self, why: str) -> None:
        """Start nothing new; what is under way still comes and is kept."""
        self.why = self.why or why
        self.stop.set()

    async def _work(self, orders: Iterator[Order]) -> SyntheticError | None:
        for order in orders:
            try:
                while not self.stop.is_set() and self.store.tally.wants(order.id):
                    await persist(partial(self._ask, order), self.stop, self.patience, self.pause)
                    self._in_a_row = 0
            except StoppedError:
                return None
            except RefusedError as error:
                self.refused.append(f"«{order.theme.text}»: {error}")
                self._in_a_row += 1
                if self._in_a_row == BAD_IN_A_ROW:
                    self.halt(str(error))
                    return SyntheticError(str(error))
            except SyntheticError as error:
                self.halt(str(error))
                return error
            if self.stop.is_set():
                return None
        return None

    async def _ask(self, order: Order) -> None:
        """Try once: put the answer, or the loss of it, on file before the money is freed."""
        most = worst_cost(order, self.request)
        if not await self.budget.hold(most):
            self.halt(f"the budget of ${self.budget.limit:g} has no room for another request")
            raise StoppedError("stopped")
        try:
            if self.stop.is_set():  # while it waited for the money
                raise StoppedError("stopped")
            answer = await self.client.chat.completions.create(**body(order, self.request))
            if not isinstance(answer, ChatCompletion):  # openai hands on what is not JSON
                raise SyntheticError(NOT_THE_API)
            line = line_of(order, self.request, answer)
            self.store.append(line)
            self.on_line(line)
        except json.JSONDecodeError:
            raise SyntheticError(NOT_THE_API) from None
        except openai.APIError as error:
            if maybe_charged(error):
                self.store.append(lost_line(order, self.request))
            raise
        finally:
            await self.budget.free(most)
