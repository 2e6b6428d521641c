"""Have a language model write the synthetic stories, a few on each theme.

python -m scripts.generate_synthetic --dry-run            # what it would cost; sends nothing
python -m scripts.generate_synthetic --limit 20           # 20 stories, each on its own theme
python -m scripts.generate_synthetic [--batch]            # all; half the price within a day

Key, address and model stand in .env (see .env.example), prices in ml/data/prices.json: check them.
Interrupted or killed, the same command goes on and pays for nothing twice: only the answers that
were on their way at a kill -9, --concurrency of them at most, may be charged and missing.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from tqdm import tqdm

from db.settings import Settings, SettingsError
from ml.synthetic import Client, StoppedError, Writing, connect
from ml.synthetic_batch import load_ticket, run_batch, ticket_file
from ml.synthetic_plan import (
    PRICES_FILE,
    THEMES_FILE,
    Order,
    Request,
    SyntheticError,
    estimate,
    load_price,
    load_themes,
    plan,
)
from ml.synthetic_store import Budget, Line, Store, Tally, tally


class SyntheticSettings(Settings):
    """Where the stories come from."""

    openai_api_key: str | None = Field(
        None, description="key of OpenAI's API, or of one like it, that writes synthetic stories"
    )
    openai_base_url: str = Field(
        "https://api.openai.com/v1", description="address of that API, up to /v1"
    )
    synthetic_model: str = Field(
        "gpt-4o-mini", description="its model; ml/data/prices.json must know the price"
    )

    @field_validator("openai_base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("should begin with http:// or https://")
        return value

    @field_validator("openai_api_key")
    @classmethod
    def _fits_a_header(cls, value: str | None) -> str | None:
        if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
            raise ValueError("should be Latin letters and digits, without spaces")
        return value


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        settings = SyntheticSettings.load()
        model = options.model or settings.synthetic_model
        price = load_price(options.prices, model)
        request = Request(model, price, options.max_tokens, options.temperature)
        orders = plan(load_themes(options.themes), options.per_theme, options.limit)
        if options.dry_run:
            _foretell(options, request, orders)
            return
        ticket = ticket_file(options.out)
        if not options.batch and load_ticket(ticket) is not None:
            raise SyntheticError(
                f"{ticket}: a batch is under way; fetch it with --batch, or delete this file"
            )
        asyncio.run(_write(options, settings, request, orders))
    except (SettingsError, SyntheticError) as error:
        raise SystemExit(f"generate_synthetic: {error}") from None
    except OSError as error:
        raise SystemExit(f"generate_synthetic: {error.filename}: {error.strerror}") from None
    except KeyboardInterrupt:  # the second Ctrl-C
        raise SystemExit(130) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--themes", type=Path, default=THEMES_FILE)
    parser.add_argument("--prices", type=Path, default=PRICES_FILE)
    parser.add_argument("--out", type=Path, default=Path("data/synthetic.jsonl"))
    parser.add_argument("--per-theme", type=_above_zero(int), default=5, metavar="N")
    parser.add_argument("--limit", type=_above_zero(int), metavar="N", help="stories in all")
    parser.add_argument("--model", help="instead of SYNTHETIC_MODEL")
    parser.add_argument("--concurrency", type=_above_zero(int), default=8, metavar="N")
    parser.add_argument(
        "--budget",
        type=_above_zero(float),
        default=1.0,
        metavar="DOLLARS",
        help="for all that the output file holds, earlier runs' answers too",
    )
    parser.add_argument("--max-tokens", type=_above_zero(int), default=Request.max_tokens)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--dry-run", action="store_true", help="print the estimate, send nothing")
    parser.add_argument("--batch", action="store_true", help="half the price, within a day")
    parser.add_argument(
        "--poll", type=_above_zero(float), default=30.0, metavar="SECONDS", help="with --batch"
    )
    return parser


def _above_zero(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    read.__name__ = "number above zero"  # for argparse's message
    return read


def _foretell(options: argparse.Namespace, request: Request, orders: list[Order]) -> None:
    count = tally(options.out)
    left = [order for order in orders if count.wants(order.id)]
    now = estimate(left, request, options.concurrency)
    half = replace(request, price=request.price.in_batch())
    later = estimate(left, half, options.concurrency)
    print(f"{now.stories} stories to write of {len(orders)}")
    print(f"about {now.prompt_tokens:,} + {now.completion_tokens:,} tokens (prompts + stories)")
    print(f"one by one   about ${now.cost:.4f}, at most ${now.worst:.4f}; ", end="")
    print(f"about {timedelta(seconds=now.seconds)} h at {options.concurrency} at once")
    print(f"with --batch about ${later.cost:.4f}, at most ${later.worst:.4f}; within a day")
    print("at most: if every story is as long as --max-tokens and none is asked for again")
    print(f"--budget is ${options.budget:g}; ${count.at_most:.4f} of it is spent")


async def _write(
    options: argparse.Namespace, settings: SyntheticSettings, request: Request, orders: list[Order]
) -> None:
    if settings.openai_api_key is None:
        raise SyntheticError("OPENAI_API_KEY is not set: put it into .env")
    stop = asyncio.Event()
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)  # the next Ctrl-C waits for nothing
        print("\nstopping: the answers under way still come", file=sys.stderr)
        interrupted.set()
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    with Store(options.out) as store:
        if store.tally.answers or store.tally.lost:
            print(_sum(options, orders, store.tally), flush=True)
        left = [order for order in orders if store.tally.wants(order.id)]
        write = _batch if options.batch else _one_by_one
        try:
            async with connect(settings.openai_api_key, settings.openai_base_url) as client:
                why = await write(options, client, request, left, store, stop)
        finally:
            print(_sum(options, orders, store.tally))
    if why:
        print(f"generate_synthetic: {why}", file=sys.stderr)
    if why or interrupted.is_set():
        raise SystemExit(130 if interrupted.is_set() else 1)


async def _one_by_one(
    options: argparse.Namespace,
    client: Client,
    request: Request,
    orders: list[Order],
    store: Store,
    stop: asyncio.Event,
) -> str | None:
    """Write; return why not all is written, if it is not."""
    budget = Budget(options.budget, store.tally)
    with tqdm(total=len(orders), unit=" stories", disable=None) as bar:

        def show(line: Line) -> None:
            bar.set_postfix_str(f"${store.tally.at_most:.4f}", refresh=False)
            bar.update(line.good)

        writing = Writing(client, request, store, budget, on_line=show, stop=stop)
        await writing.run(orders, options.concurrency)
    for refusal in writing.refused:
        print(refusal, file=sys.stderr)
    if writing.refused and not writing.why:
        return f"{len(writing.refused)} stories got no answer; run the same command again"
    return writing.why


async def _batch(
    options: argparse.Namespace,
    client: Client,
    request: Request,
    orders: list[Order],
    store: Store,
    stop: asyncio.Event,
) -> str | None:
    """Fetch the batch under way or make one; return why not all is written, if it is not."""
    path = ticket_file(options.out)
    if not orders and load_ticket(path) is None:
        return None
    with tqdm(total=len(orders), unit=" stories", disable=None) as bar:

        def show(status: str, done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(status)

        try:
            outcome = await run_batch(
                client,
                request,
                orders,
                store,
                limit=options.budget,
                poll=options.poll,
                stop=stop,
                on_status=show,
            )
        except StoppedError:
            return f"the batch goes on without us; the same command fetches it ({path})"
        except SyntheticError as error:
            noted = f"; the batch is noted in {path}" if path.exists() else ""
            raise SyntheticError(f"{error}{noted}") from error
    if outcome is None:
        return f"the budget of ${options.budget:g} has no room for a batch"
    for refusal in outcome.errors:
        print(refusal, file=sys.stderr)
    print(f"batch {outcome.batch} {outcome.status}: {outcome.answered} of {outcome.asked} answered")
    left = sum(store.tally.wants(order.id) for order in orders)
    return f"{left} stories are still to be written; run the same command again" if left else None


def _sum(options: argparse.Namespace, orders: list[Order], count: Tally) -> str:
    good = sum(order.id in count.good for order in orders)
    given_up = len(orders) - good - sum(count.wants(order.id) for order in orders)
    bad = f", {count.bad} answers cut or empty" if count.bad else ""
    bad += f", {given_up} stories given up for that" if given_up else ""
    return f"{options.out}: {good} of {len(orders)} stories{bad}; {count}"


if __name__ == "__main__":
    main()
