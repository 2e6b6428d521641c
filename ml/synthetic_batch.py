"""Writes stories through the Batch API: at half the price, within a day.

    outcome = await run_batch(client, request, orders, store, limit=1.0, poll=30, stop=stop)

A ticket beside the output names the batch from before it is made until its answers are on file: a
run that was killed goes on waiting for the batch that is already paid for.

https://developers.openai.com/api/docs/guides/batch
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from ml.results import write_text
from ml.synthetic import (
    Client,
    Patience,
    Pause,
    StatusError,
    answer_of,
    line_of,
    pause_or_stop,
    persist,
)
from ml.synthetic_plan import (
    Order,
    Price,
    Request,
    SyntheticError,
    Theme,
    body,
    worst_cost,
)
from ml.synthetic_store import Store

ENDPOINT: Final = "/v1/chat/completions"
LARGEST = 50_000  # requests in a batch, by the API's rules
ENDED = {"completed", "failed", "expired", "cancelled"}
THROUGH_A_NIGHT = Patience(tries=1000)  # a minute apart: waiting costs nothing
CLOCKS_DIFFER = 3600  # seconds, at most, between this machine's clock and the server's


@dataclass
class Ticket:
    """One batch of ours, as it is kept on disk from the moment it is asked for."""

    run: str  # the name we give the batch, so that we know it again
    created: int  # Unix time
    request: Request
    orders: list[Order]
    file: str | None = None  # ids, once the server has given them
    batch: str | None = None
    sent: bool = False  # the batch was asked for: it may exist even if we know no id


@dataclass
class Outcome:
    """How a batch ended: its status, how many of its requests were answered, and what failed."""

    batch: str
    status: str
    asked: int
    answered: int = 0
    errors: list[str] = field(default_factory=list)


def ticket_file(output: Path) -> Path:
    """Return where the ticket of an output's batch is kept."""
    return output.with_name(f"{output.name}.batch.json")


def load_ticket(path: Path) -> Ticket | None:
    """Read the ticket, if there is one. Raises SyntheticError."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        request = Request(**{**kept["request"], "price": Price(**kept["request"]["price"])})
        orders = [Order(Theme(**row["theme"]), row["number"]) for row in kept["orders"]]
        return Ticket(**{**kept, "request": request, "orders": orders})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SyntheticError(f"{path}: not a batch's ticket ({error!r})") from None


async def run_batch(
    client: Client,
    request: Request,
    orders: Sequence[Order],
    store: Store,
    *,
    limit: float,
    poll: float,
    stop: asyncio.Event,
    on_status: Callable[[str, int, int], None] = lambda *_: None,
    patience: Patience | None = None,
    pause: Pause = pause_or_stop,
) -> Outcome | None:
    """Fetch the batch under way, or make one of as many orders as ``limit`` dollars allow.

    ``on_status`` gets the status, the requests done and all of them, every ``poll`` seconds. None:
    there is no money for a single request. Raises SyntheticError, or the StoppedError among them.
    """
    path = ticket_file(store.path)
    ticket = load_ticket(path)
    if ticket is None:
        request = replace(request, price=request.price.in_batch())
        paid = (worst_cost(order, request) for order in orders)
        totals = accumulate(paid, initial=store.tally.at_most)
        next(totals)
        chosen = [order for order, total in zip(orders, totals, strict=True) if total <= limit]
        if not chosen:
            return None
        ticket = Ticket(uuid.uuid4().hex, int(time.time()), request, chosen[:LARGEST])
    send = partial(persist, stop=stop, patience=patience, pause=pause)
    if ticket.batch is None:
        ticket.batch = await send(partial(_submit, client, ticket, path))
        _keep(ticket, path)
    while True:
        batch = await send(partial(client.batches.retrieve, ticket.batch), patience=THROUGH_A_NIGHT)
        counts = batch.request_counts
        done = counts.completed + counts.failed if counts else 0
        on_status(batch.status, done, len(ticket.orders))
        if batch.status in ENDED:
            break
        await pause(poll, stop)
    outcome = Outcome(batch.id, batch.status, len(ticket.orders))
    for error in (batch.errors.data if batch.errors else None) or []:
        outcome.errors.append(
            f"{error.message}" + (f" (request {error.line})" if error.line else "")
        )
    for file in filter(None, (batch.output_file_id, batch.error_file_id)):
        content = await send(partial(client.files.content, file))
        _record(file, content.content.decode("utf-8"), ticket, store, outcome)
    _drop(ticket, path)
    return outcome


def _keep(ticket: Ticket, path: Path) -> None:
    try:
        write_text(path, json.dumps(asdict(ticket), ensure_ascii=False) + "\n")
    except OSError as error:
        raise SyntheticError(f"{path}: {error.strerror}") from None


def _drop(ticket: Ticket, path: Path) -> None:
    ticket.sent = False
    path.unlink()


async def _submit(client: Client, ticket: Ticket, path: Path) -> str:
    """Return the id of the ticket's batch: of the one already there, or of a new one."""
    if ticket.sent:
        async for batch in client.batches.list(limit=100):  # the newest first
            if (batch.metadata or {}).get("run") == ticket.run:
                return batch.id
            if batch.created_at < ticket.created - CLOCKS_DIFFER:
                break
    if ticket.file is None:
        lines = (_request_line(order, ticket.request) for order in ticket.orders)
        upload = ("stories.jsonl", "".join(lines).encode())
        ticket.file = (await client.files.create(file=upload, purpose="batch")).id
    ticket.sent = True
    _keep(ticket, path)
    try:
        batch = await client.batches.create(
            input_file_id=ticket.file,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={"run": ticket.run},
        )
    except StatusError as error:
        if error.status_code < 500:  # surely not made
            _drop(ticket, path)
        raise
    return batch.id


def _request_line(order: Order, request: Request) -> str:
    line = {"custom_id": order.id, "method": "POST", "url": ENDPOINT, "body": body(order, request)}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _record(file: str, content: str, ticket: Ticket, store: Store, outcome: Outcome) -> None:
    """Put a results file's answers into the store, those that are not there yet."""
    asked = {order.id: order for order in ticket.orders}
    for number, raw in enumerate(content.split("\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
            order = asked[row["custom_id"]]
            response: dict[str, Any] = row.get("response") or {}
            if row.get("error") or response.get("status_code") != 200:
                error = row.get("error") or response["body"]["error"]
                outcome.errors.append(f"«{order.theme.text}»: {error['message']}")
                continue
            answer = answer_of(response["body"])
        except (KeyError, TypeError, ValueError) as error:
            raise SyntheticError(
                f"{file}, line {number}: not a result of batch {outcome.batch} ({error!r})"
            ) from None
        outcome.answered += 1
        if (outcome.batch, order.id) not in store.batches:
            store.append(line_of(order, ticket.request, answer, outcome.batch))
