"""Brings the database's tables up to date; bot and worker call it when they start.

By hand: ``alembic upgrade head``, ``alembic downgrade -1``, ``alembic revision --autogenerate``.
"""

from contextlib import aclosing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from db.session import UNAVAILABLE, Database, DatabaseError

# Any number that no other program takes as an advisory lock in the same database.
LOCK = 17990606
ROOT = Path(__file__).resolve().parents[1]


def alembic_config(connection: Connection) -> Config:
    """Return alembic's configuration working on an open connection."""
    config = Config(ROOT / "alembic.ini")
    config.attributes["connection"] = connection
    return config


def upgrade_on(connection: Connection, revision: str = "head") -> None:
    """Upgrade to ``revision`` in the connection's transaction."""
    command.upgrade(alembic_config(connection), revision)


def downgrade_on(connection: Connection, revision: str) -> None:
    """Downgrade to ``revision`` in the connection's transaction."""
    command.downgrade(alembic_config(connection), revision)


async def upgrade(database: Database) -> None:
    """Upgrade to the newest revision; those that start together wait for each other.

    Raises DatabaseError if the database does not open.
    """
    try:
        connection = await database.engine.connect()
    except UNAVAILABLE as error:
        address = database.engine.url.render_as_string(hide_password=True)
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise DatabaseError(f"cannot open {address}: {reason}") from error
    async with aclosing(connection):
        if connection.dialect.name == "sqlite":
            # SQLite alters a table by dropping its old copy, which by CASCADE deletes the rows
            # that hang on it. The pragma does nothing inside a transaction.
            await _foreign_keys(connection, "OFF")
        try:
            async with connection.begin():
                if connection.dialect.name == "postgresql":
                    # Before alembic, whose context is a global: tasks must not wait inside it.
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": LOCK})
                await connection.run_sync(upgrade_on)
        finally:
            if connection.dialect.name == "sqlite":
                await _foreign_keys(connection, "ON")


async def _foreign_keys(connection: AsyncConnection, state: str) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await (await driver.execute(f"PRAGMA foreign_keys={state}")).close()
