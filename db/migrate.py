"""Brings the database's tables up to date; bot and worker call it when they start.

By hand: ``alembic upgrade head``, ``alembic downgrade -1``, ``alembic revision --autogenerate``.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from db.session import Database

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
    """Upgrade to the newest revision; processes that start together wait for each other."""
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade_on)
