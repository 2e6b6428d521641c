"""The whole bot as its operator runs it: real processes, real HTTP, a file on disk."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from bot.texts import RU
from db.models import Generation, JobStatus, Rating
from tests.service import READER_ID, SECONDS, Service, kill, open_service

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as service:
        yield service


async def test_a_story_is_streamed_delivered_once_and_rated(service: Service) -> None:
    bot = await service.start("bot")
    worker = await service.start("ml.worker", ENGINE="torch")  # OpenVINO is done before any draft
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
    worker = await service.start("ml.worker", ENGINE="torch")  # the slower one
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
