"""The connection to the database: settings, SQLite's pragmas, transactions that read or write.

database = connect(DatabaseSettings().database_url)
async with database.write() as session: ...   # commits at the end, rolls back on an error
async with database.read() as session: ...
await database.insist(change)                 # change(session), tried again while it is away
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field
from sqlalchemy import Connection, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from db.settings import Settings

BUSY_MILLISECONDS = 10_000  # how long SQLite waits for another writer
WAL_TRIES, WAL_PAUSE = 100, 0.02  # and seconds between them
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between tries of what must not be lost
_READ_ONLY = "neuropushkin_read_only"

T = TypeVar("T")

log = logging.getLogger("database")


class DatabaseError(Exception):
    """The database cannot be opened: the message names it, for the operator."""


# What a database that is away for a while raises: bot and worker wait for it to come back.
UNAVAILABLE = (DBAPIError, OSError, PoolTimeoutError)


class DatabaseSettings(Settings):
    """What bot and worker must agree on."""

    database_url: str = Field(
        "sqlite+aiosqlite:///data/neuropushkin.db",
        description="SQLAlchemy URL: SQLite on one host, postgresql+asyncpg://… for several",
    )


class Database:
    """An engine and its two kinds of transaction.

    On SQLite a writer takes the write lock when it begins (BEGIN IMMEDIATE), so that it never
    fails half-way; a reader takes none and never waits. The writers of one process take turns
    here: SQLite has those that wait sleep and look again, ever more seldom.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(**{_READ_ONLY: True})
        one_writer = engine.dialect.name == "sqlite"
        self._turn: AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if one_writer else nullcontext()
        )

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction that writes nothing."""
        async with AsyncSession(self._reading, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction that is committed at the end of the block."""
        async with (
            self._turn,
            AsyncSession(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    async def insist(self, change: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Commit what must not be lost; a database that is away for a while is asked again.

        Raises what it said at last (one of ``UNAVAILABLE``) if it stays away.
        """
        for pause in PAUSES:
            try:
                async with self.write() as session:
                    return await change(session)
            except UNAVAILABLE as error:
                log.warning("the database does not answer: %s", error)
                await asyncio.sleep(pause)
        async with self.write() as session:
            return await change(session)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def connect(url: str) -> Database:
    """Return the database at an SQLAlchemy URL; the folder of an SQLite file is made.

    Raises DatabaseError if the address is none, its driver is missing or the folder cannot be.
    """
    try:
        address = make_url(url)
        if address.get_backend_name() != "sqlite":
            return Database(create_async_engine(address, pool_pre_ping=True))
        if address.database:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(address)
    except (ArgumentError, ImportError, InvalidRequestError, OSError) as error:
        raise DatabaseError(f"cannot use DATABASE_URL: {error}") from error
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return Database(engine)


def insert(session: AsyncSession, model: type[DeclarativeBase]) -> Any:
    """Return the dialect's own INSERT into a table: the one with ON CONFLICT."""
    name = session.get_bind().dialect.name
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[name](model)


def _set_pragmas(connection: Any, _record: object) -> None:
    # The driver's own transactions start only before a statement that begins with INSERT,
    # UPDATE, DELETE or REPLACE: a claim, which begins with WITH, would run outside of one.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_MILLISECONDS}",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    # The switch to WAL does not wait by itself: two that open a new file at once would collide.
    for patience in range(WAL_TRIES, -1, -1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if not patience:
                raise
            time.sleep(WAL_PAUSE)
    cursor.close()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READ_ONLY)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
