"""Fill a database with stories and the votes of scripted readers: to try /retrain on.

python -m scripts.simulate_votes [--votes 640] [--readers 20] [--noise 0.1] [--tokens 160]
    [--model ml/pretrained/pushkin-mini] [--shuffled]

Writes to DATABASE_URL, unless real readers use it, through the queue's own functions. The readers
like short sentences and no repetition (ml.taste), slip now and then, and have consented. --shuffled
deals the same votes out at random: what a retraining makes of them must not pass its gate.
"""

import argparse
import asyncio
import random
from pathlib import Path
from statistics import fmean

from sqlalchemy import func, select
from tqdm import tqdm

from db import jobs, queries
from db.migrate import upgrade
from db.models import User, now
from db.session import Database, DatabaseError, DatabaseSettings, connect
from db.settings import SettingsError
from ml import taste, texts
from ml.decoding import trim
from ml.engine import EchoEngine, Engine, EngineError, Request, Sampling
from ml.worker import WorkerSettings, make_engine

THEMES = Path("ml/data/themes.json")
VARIANTS = 4  # of each opening
SLOTS = 16
_FIRST_READER = 7_000_000_000  # far from any real id


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--votes", type=int, default=640)
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.1, help="share of slips")
    parser.add_argument("--tokens", type=int, default=160, help="of a story, at most")
    parser.add_argument("--model", default="ml/pretrained/pushkin-mini")
    parser.add_argument("--seed", type=int, default=1799)
    parser.add_argument("--shuffled", action="store_true", help="votes that mean nothing")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(simulate(options))
    except (DatabaseError, EngineError, SettingsError) as error:
        raise SystemExit(str(error)) from None


async def simulate(options: argparse.Namespace) -> None:
    database = connect(DatabaseSettings.load().database_url)
    engine: Engine = EchoEngine()  # until there is a reason to load the model
    try:
        await upgrade(database)
        await _refuse_readers(database)
        engine = make_engine(
            WorkerSettings.load().model_copy(update={"model": options.model, "slots": SLOTS})
        )
        await engine.start()
        openings = _openings(options.votes, options.seed)
        stories = await _write(engine, openings, options)
        liked = taste.vote(
            [taste.strain(story) for story in stories], noise=options.noise, seed=options.seed
        )
        if options.shuffled:
            random.Random(options.seed).shuffle(liked)
        await _store(database, engine, openings, stories, liked, options)
    finally:
        await engine.close()
        await database.close()
    length = fmean(map(taste.sentence_length, stories))
    print(f"{len(liked)} votes, {sum(liked)} likes; {length:.1f} words a sentence")


async def _refuse_readers(database: Database) -> None:
    """Raise SystemExit for a database that real readers use."""
    async with database.read() as session:
        real = await session.scalar(
            select(func.count()).select_from(User).where(User.id < _FIRST_READER)
        )
    if real:
        raise SystemExit("the database has readers of its own: name another by DATABASE_URL")


def _openings(count: int, seed: int) -> list[str]:
    """Return themes as openings, each VARIANTS times."""
    themes = [theme for group in texts.read_json(THEMES).values() for theme in group]
    drawn = random.Random(seed).sample(themes, -(-count // VARIANTS))
    return [theme for theme in drawn for _ in range(VARIANTS)][:count]


async def _write(engine: Engine, openings: list[str], options: argparse.Namespace) -> list[str]:
    sampling, free = Sampling(max_tokens=options.tokens), asyncio.Semaphore(SLOTS)
    bar = tqdm(total=len(openings), unit="story", disable=None)

    async def write(number: int, opening: str) -> str:
        async with free:
            request = Request(opening, sampling=sampling, seed=options.seed + number)
            stream = await engine.submit(request)
            text = "".join([piece async for piece in stream])
            bar.update()
            return trim(text).rstrip() or "…"  # with the space or comma that it begins with

    with bar:
        return await asyncio.gather(*(write(n, opening) for n, opening in enumerate(openings)))


async def _store(
    database: Database,
    engine: Engine,
    openings: list[str],
    stories: list[str],
    liked: list[bool],
    options: argparse.Namespace,
) -> None:
    """Lead every story through the queue, as a bot and a worker would, and rate it."""
    card = engine.card
    async with database.write() as session:
        version = await queries.register_model(
            session,
            name=card.name,
            version=card.version,
            prompt_tokens=card.prompt_tokens,
            prompt_characters=card.prompt_characters,
            meta=card.meta,
        )
        for reader in range(_FIRST_READER, _FIRST_READER + options.readers):
            await queries.remember_user(session, reader, "ru")
            await queries.set_consent(session, reader, True)
    everything = zip(openings, stories, liked, strict=True)
    for number, (opening, story, like) in enumerate(everything):
        reader = _FIRST_READER + number % options.readers
        async with database.write() as session:
            job = await jobs.enqueue(
                session,
                user_id=reader,
                chat_id=reader,
                private=True,
                request_message_id=options.seed * 1_000_000 + number,
                prompt=opening,
            )
            claimed = await jobs.claim(session, "simulation", 1)
            if [one.id for one in claimed] != [job.id]:
                raise SystemExit("these votes are there already: another --seed makes others")
            claim = jobs.Claim(job.id, "simulation", claimed[0].attempts)
            answer = jobs.Answer(
                text=story,
                model_version_id=version,
                seed=options.seed + number,
                settings={"max_tokens": options.tokens},
                tokens=options.tokens,
                finish_reason="length",
                started_at=now(),
            )
            await jobs.finish(session, claim, [answer])
            await jobs.mark_delivered(session, job.id, None)
            await session.refresh(job, ["generations"])
            await queries.rate(session, job.generations[0].id, reader, 1 if like else -1)


if __name__ == "__main__":
    main()
