"""Runs alembic's migrations: on the connection a program passes in, or on DATABASE_URL's."""

import asyncio
import os
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from dotenv import dotenv_values
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from db.models import Base, UtcDateTime


def render_item(_kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write our own column type as what it is in the database: migrations outlive the models."""
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    """Migrate in the connection's transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_on_url(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline mode is not supported: run the migrations on a database")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = os.environ.get("DATABASE_URL") or dotenv_values(".env").get("DATABASE_URL")
    asyncio.run(run_on_url(url or "sqlite+aiosqlite:///data/neuropushkin.db"))
