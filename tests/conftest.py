"""What several tests need: a fresh database of each kind, with its tables."""

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from db.migrate import upgrade
from db.session import Database, connect

os.environ.setdefault("HF_HUB_OFFLINE", "1")
for setting in ("BOT_TOKEN", "TELEGRAM_API_URL", "ADMIN_IDS", "DATABASE_URL", "MODEL", "ENGINE"):
    os.environ.pop(setting, None)  # the shell's own must not reach the bots that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait for each other

POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql+asyncpg://postgres@127.0.0.1:5432")


def _postgresql_answers() -> bool:
    address = POSTGRESQL.rsplit("@", 1)[-1].split("/")[0]
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port or 5432)), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)],
)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/test.db"
        return
    if not await asyncio.to_thread(_postgresql_answers):
        pytest.skip("PostgreSQL does not answer on 127.0.0.1:5432")
    name = f"neuropushkin_{uuid.uuid4().hex[:12]}"
    admin = create_async_engine(f"{POSTGRESQL}/postgres", isolation_level="AUTOCOMMIT")
    async with admin.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    yield f"{POSTGRESQL}/{name}"
    async with admin.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    await admin.dispose()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of each kind in turn."""
    database = connect(database_url)
    await upgrade(database)
    yield database
    await database.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated SQLite database, for tests that the kind does not matter to."""
    database = connect(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    await upgrade(database)
    yield database
    await database.close()
