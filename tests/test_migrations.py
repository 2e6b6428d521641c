"""The migrations build the models' tables, on both databases, and take them down again."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from db import jobs, migrate, queries, retraining
from db.migrate import ROOT, downgrade_on, upgrade, upgrade_on
from db.models import Base
from db.session import Database, connect
from tests.db_helpers import OWNER, add_story, is_sqlite

TABLES = set(Base.metadata.tables)
SCRIPTS = ScriptDirectory(str(ROOT / "migrations"))
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]  # oldest first


@pytest.fixture
async def empty(database_url: str) -> AsyncIterator[Database]:
    """A database without tables, of each kind in turn."""
    database = connect(database_url)
    yield database
    await database.close()


async def run(database: Database, act: Callable[..., Any], *arguments: Any) -> Any:
    """Do something that wants a plain connection, in a transaction.

    As alembic by hand does it: without SQLite's foreign keys, or a rebuilt table takes rows along.
    """
    async with database.engine.connect() as connection:
        if is_sqlite(database):
            await migrate._foreign_keys(connection, "OFF")
        try:
            async with connection.begin():
                return await connection.run_sync(act, *arguments)
        finally:
            if is_sqlite(database):
                await migrate._foreign_keys(connection, "ON")


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def schema(connection: Connection) -> dict[str, Any]:
    """Return all that the database itself says of its tables."""
    inspector = inspect(connection)
    found: dict[str, Any] = {}
    for table in tables(connection):
        found[table] = {
            "columns": {
                column["name"]: {name: str(value) for name, value in column.items()}
                for column in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table),
            "indexes": _by_name(inspector.get_indexes(table)),
            "unique": _by_name(inspector.get_unique_constraints(table)),
            "foreign keys": _by_name(inspector.get_foreign_keys(table)),
            "checks": _by_name(inspector.get_check_constraints(table)),
        }
    return found


def _by_name(items: list[Any]) -> dict[str, Any]:
    for item in items:  # SQLite gives a partial index's condition as an object like no other
        options = item.get("dialect_options", {})
        options.update({name: str(value) for name, value in options.items()})
    return {item["name"]: item for item in items}


def count_rows(connection: Connection) -> dict[str, int]:
    return {
        name: connection.scalar(select(func.count()).select_from(table)) or 0
        for name, table in Base.metadata.tables.items()
    }


def version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def fill(database: Database) -> None:
    """Put a row into every table at least."""
    _, (generation_id,) = await add_story(database)
    async with database.write() as session:
        await queries.rate(session, generation_id, OWNER, 1)
        await retraining.request(
            session, requested_by=OWNER, chat_id=OWNER, language="ru", settings={}
        )


# Up


async def test_upgrade_of_an_empty_database_builds_every_table(empty: Database) -> None:
    assert await run(empty, tables) == set()
    await upgrade(empty)
    assert await run(empty, tables) == TABLES
    assert await run(empty, version) == REVISIONS[-1]


async def test_autogenerate_finds_nothing_left_to_do(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        return compare_metadata(context, Base.metadata)

    assert await run(database, differences) == []


async def test_migrations_build_exactly_what_the_models_would(database: Database) -> None:
    """Autogenerate does not look at checks, names of keys, or what a deletion takes along."""
    migrated = await run(database, schema)
    await run(database, downgrade_on, "base")
    await run(database, Base.metadata.create_all)
    assert migrated == await run(database, schema)
    assert migrated.keys() == TABLES


async def test_upgrade_of_what_is_new_already_loses_nothing(database: Database) -> None:
    await fill(database)
    before = await run(database, count_rows)
    assert set(before.values()) == {1}
    await upgrade(database)
    assert await run(database, count_rows) == before
    assert await run(database, version) == REVISIONS[-1]


async def test_alembic_by_hand_does_the_same(empty: Database) -> None:
    url = empty.engine.url.render_as_string(hide_password=False)
    for arguments, expected in [(["upgrade", "head"], TABLES), (["downgrade", "base"], set())]:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            stderr=asyncio.subprocess.PIPE,
        )
        _, words = await process.communicate()
        assert process.returncode == 0, words.decode()
        assert await run(empty, tables) == expected
    await upgrade(empty)
    assert await run(empty, tables) == TABLES


# Down


async def test_downgrade_takes_everything_away_and_upgrade_starts_anew(
    database: Database,
) -> None:
    await fill(database)
    await run(database, downgrade_on, "base")
    assert await run(database, tables) == set()
    assert await run(database, version) is None
    await upgrade(database)
    assert await run(database, tables) == TABLES
    assert set((await run(database, count_rows)).values()) == {0}
    await fill(database)


async def test_every_revision_can_be_taken_back_by_itself(empty: Database) -> None:
    before = {"base": await run(empty, schema)}
    past = "base"
    for revision in REVISIONS:
        await run(empty, upgrade_on, revision)
        before[revision] = await run(empty, schema)
        assert before[revision] != before[past], f"{revision} changes nothing"
        await run(empty, downgrade_on, past)
        assert await run(empty, schema) == before[past], f"{revision} leaves something behind"
        await run(empty, upgrade_on, revision)
        assert await run(empty, schema) == before[revision]
        past = revision
    for revision in [*reversed(REVISIONS[:-1]), "base"]:
        await run(empty, downgrade_on, revision)
        assert await run(empty, schema) == before[revision]


def test_revisions_are_one_line_and_named_by_their_numbers() -> None:
    assert len(SCRIPTS.get_heads()) == 1
    assert [f"{number + 1:04}" for number in range(len(REVISIONS))] == REVISIONS
    for script in SCRIPTS.walk_revisions():
        assert Path(script.path).name.startswith(f"{script.revision}_")


# At once


async def test_tasks_that_upgrade_at_once_all_succeed(empty: Database, database_url: str) -> None:
    """Alembic keeps its context in a global: one that waits must not have entered it yet."""
    others = [connect(database_url) for _ in range(3)]
    try:
        await asyncio.gather(*(upgrade(database) for database in [empty, *others]))
    finally:
        for database in others:
            await database.close()
    assert await run(empty, tables) == TABLES
    assert await run(empty, version) == REVISIONS[-1]


PROGRAM = """
import asyncio, sys
from db.migrate import upgrade
from db.session import connect

async def main():
    database = connect(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await upgrade(database)
    await database.close()

asyncio.run(main())
"""


async def test_processes_that_upgrade_at_once_all_succeed(
    empty: Database, database_url: str
) -> None:
    """The bot and the worker start together."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-c", PROGRAM, database_url]
    processes = [
        await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    for process, (_, words) in zip(processes, ends, strict=True):
        assert process.returncode == 0, words.decode()
    assert await run(empty, tables) == TABLES
    assert await run(empty, version) == REVISIONS[-1]


# The next revision, whatever it will be

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
{body}


def downgrade() -> None:
    pass
"""


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Add a revision after the newest one, with this body."""
    ours = migrate.alembic_config

    def config(connection: Connection) -> Config:
        config = ours(connection)
        folders = [str(ROOT / "migrations" / "versions"), str(tmp_path / "versions")]
        config.set_main_option("version_locations", os.pathsep.join(folders))
        return config

    def write(body: str) -> None:
        (tmp_path / "versions").mkdir()
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        code = NEXT.format(head=REVISIONS[-1], body=lines)
        (tmp_path / "versions" / "next.py").write_text(code)
        monkeypatch.setattr(migrate, "alembic_config", config)

    return write


async def test_migration_that_breaks_half_way_leaves_nothing_behind(
    database: Database, next_revision: Callable[[str], None]
) -> None:
    await fill(database)
    before = await run(database, schema), await run(database, count_rows)
    next_revision(
        """
op.create_table("half", sa.Column("id", sa.Integer(), primary_key=True))
op.add_column("users", sa.Column("half", sa.Integer()))
op.execute("DELETE FROM jobs")
op.execute("SELECT no_such_thing")
"""
    )
    with pytest.raises(DBAPIError, match="no_such_thing"):
        await upgrade(database)
    assert (await run(database, schema), await run(database, count_rows)) == before
    assert await run(database, version) == REVISIONS[-1]


@pytest.mark.parametrize("table", ["users", "jobs", "generations", "model_versions"])
async def test_migration_that_rebuilds_a_table_keeps_the_rows_that_hang_on_it(
    database: Database, next_revision: Callable[[str], None], table: str
) -> None:
    """SQLite alters a table by copying it and dropping the old one; with foreign keys on,
    the drop deletes every row of its own first, and by CASCADE the rows of the others.
    """
    await fill(database)
    before = await run(database, count_rows)
    next_revision(
        f"""
with op.batch_alter_table("{table}", recreate="auto") as batch:
    batch.add_column(sa.Column("later", sa.Integer()))
    batch.create_check_constraint("later", "later > 0")
"""
    )
    await upgrade(database)
    assert await run(database, version) == "next"
    assert await run(database, count_rows) == before


async def test_foreign_keys_hold_again_after_an_upgrade(sqlite: Database) -> None:
    await upgrade(sqlite)
    for _ in range(2):
        with pytest.raises(IntegrityError):
            async with sqlite.write() as session:
                await jobs.enqueue(
                    session, user_id=1, chat_id=1, private=True, request_message_id=1, prompt="Я"
                )
