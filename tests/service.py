"""The whole bot as its operator runs it, for tests: real processes, real HTTP, a file on disk.

``python -m bot`` and its like with the bundled model, against a local Bot API server that plays
Telegram and its readers.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from db.models import Job, JobStatus
from db.session import Database, connect
from tests.telegram_server import Message, TelegramServer, User

ROOT = Path(__file__).parents[1]
READER_ID = 100
SECONDS = 90.0  # the lease of a killed worker is 30 s; the rest is for a busy machine


@dataclass
class Service:
    """The processes and everything around them."""

    server: TelegramServer
    folder: Path
    database: Database
    reader: User
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, module: str, **environment: str) -> asyncio.subprocess.Process:
        """Start ``python -m module`` on the shared database; its log goes to the test's folder."""
        with (self.folder / f"{module}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                cwd=self.folder,
                env=os.environ
                | {
                    "PYTHONPATH": str(ROOT),
                    "BOT_TOKEN": self.server.token,
                    "TELEGRAM_API_URL": self.server.url,
                    "MODEL": str(ROOT / "ml/pretrained/pushkin-mini"),
                    "HF_HUB_OFFLINE": "1",
                }
                | environment,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log(self, module: str) -> str:
        return (self.folder / f"{module}.log").read_text("utf-8")

    def said(self) -> list[Message]:
        """Return the bot's live messages."""
        return [m for m in self.server.messages(READER_ID) if m.from_bot]

    def stories(self) -> list[Message]:
        """Return the messages that can be rated."""
        return [m for m in self.said() if len(m.buttons) == 2]

    async def wait(self, found: Callable[[], object], what: str) -> None:
        try:
            await self.server.wait_for(found, timeout=SECONDS, what=what)
        except AssertionError as error:
            logs = "\n".join(p.read_text("utf-8")[-3000:] for p in self.folder.glob("*.log"))
            raise AssertionError(f"{error}\n{logs}") from None

    async def jobs(self) -> list[Job]:
        async with self.database.read() as session:
            return list(await session.scalars(select(Job).order_by(Job.id)))

    async def until_running(self) -> None:
        """Wait until a worker has streamed the first words of a story to the database."""
        await self.wait(self.said, "a placeholder")
        async with asyncio.timeout(SECONDS):
            while not any(j.status == JobStatus.RUNNING and j.partial for j in await self.jobs()):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def open_service(folder: Path) -> AsyncIterator[Service]:
    """Give a service in a folder, no process started yet; end what was started."""
    async with TelegramServer(token="42:TEST") as server:
        database = connect(f"sqlite+aiosqlite:///{folder}/data/neuropushkin.db")
        service = Service(server, folder, database, server.user(READER_ID))
        yield service
        for process in service.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await database.close()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()
