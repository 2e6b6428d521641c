"""The whole bot as its operator runs it: real processes, real HTTP, a file on disk.

``python -m bot`` and ``python -m ml.worker`` with the bundled model, against a local Bot API
server that plays Telegram and its readers.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select

from bot.texts import RU
from db.models import Generation, Job, JobStatus, Rating
from db.session import Database, connect
from tests.telegram_server import Message, TelegramServer, User

ROOT = Path(__file__).parents[1]
READER_ID = 100
SECONDS = 90.0  # the lease of a killed worker is 30 s; the rest is for a busy machine

pytestmark = pytest.mark.timeout(300)


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


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with TelegramServer(token="42:TEST") as server:
        database = connect(f"sqlite+aiosqlite:///{tmp_path}/data/neuropushkin.db")
        service = Service(server, tmp_path, database, server.user(READER_ID))
        yield service
        for process in service.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await database.close()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def test_a_story_is_streamed_delivered_once_and_rated(service: Service) -> None:
    bot = await service.start("bot")
    worker = await service.start("ml.worker")
    service.server.fail_next("sendMessage", times=2, retry_after=1)  # flood control, obeyed
    await service.server.say(service.reader, "/story Мороз и солнце")
    await service.wait(service.said, "a placeholder")
    await service.wait(lambda: service.server.drafts.get(READER_ID), "a draft")
    await service.wait(service.stories, "the story")
    (story,) = service.stories()
    assert story.text.startswith("Мороз и солнце")
    assert len(story.text) > 100
    await service.wait(lambda: len(service.said()) == 1, "the placeholder's end")

    await service.server.tap(service.reader, story.message_id, "👍")
    await service.wait(lambda: service.server.answers, "a toast")
    await service.wait(lambda: "👍 ✓" in [b["text"] for b in service.said()[0].buttons], "a mark")
    await service.server.tap(service.reader, story.message_id, "👎")
    await service.wait(lambda: "👎 ✓" in [b["text"] for b in service.said()[0].buttons], "a change")
    assert [a.text for a in service.server.answers] == [RU.thanks, RU.sorry]

    async with service.database.read() as session:
        rating = (await session.scalars(select(Rating))).one()
        generation = (await session.scalars(select(Generation))).one()
    assert rating.value == -1
    assert rating.generation_id == generation.id
    assert f"Мороз и солнце{generation.text}" == story.text

    for process in (bot, worker):  # an operator's shutdown is orderly and silent
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    for module in ("bot", "ml.worker"):
        assert "Traceback" not in service.log(module)
        assert " ERROR " not in service.log(module)
    assert service.server.violations == []
    finals = [
        c
        for c in service.server.calls
        if c.method == "sendMessage" and c.ok and c.params["text"] == story.text
    ]
    assert len(finals) == 1


async def test_a_stopped_story_stops(service: Service) -> None:
    await service.start("bot")
    await service.start("ml.worker", ENGINE="echo", STORY_TOKENS="80000")
    await service.server.say(service.reader, "/story Мороз")
    await service.wait(lambda: service.server.drafts.get(READER_ID), "a draft")
    await service.server.press_stop(service.reader)
    await service.wait(lambda: RU.stopped in service.said()[-1].text, "the stopped story")
    assert service.said()[-1].text.startswith("Мороз Мороз")
    (job,) = await service.jobs()
    assert job.status == JobStatus.CANCELLED
    async with asyncio.timeout(SECONDS):
        while "was cancelled or lost" not in service.log("ml.worker"):
            await asyncio.sleep(0.05)


async def test_a_worker_killed_in_mid_story_costs_nothing(service: Service) -> None:
    await service.start("bot")
    worker = await service.start("ml.worker")
    await service.server.say(service.reader, "/story Мороз и солнце")
    await service.until_running()
    await kill(worker)
    await service.start("ml.worker")
    await service.wait(service.stories, "the story")
    await service.wait(lambda: len(service.said()) == 1, "the placeholder's end")
    (job,) = await service.jobs()
    assert (job.status, job.attempts) == (JobStatus.DONE, 2)


async def test_a_bot_killed_in_mid_story_answers_once(service: Service) -> None:
    bot = await service.start("bot")
    await service.start("ml.worker", ENGINE="echo")
    await service.server.say(service.reader, "/story Мороз")
    await service.until_running()
    await kill(bot)
    async with asyncio.timeout(SECONDS):
        while (await service.jobs())[0].status != JobStatus.DONE:
            await asyncio.sleep(0.05)
    await service.start("bot")
    await service.wait(service.stories, "the story")
    await service.wait(lambda: len(service.said()) == 1, "the placeholder's end")
    assert len(await service.jobs()) == 1
