"""From votes to a version that answers readers, as an admin goes: real processes, kill -9 and all.

Small, on the model that ships, with a recipe of a few steps. The same at full size, on a real
corpus, takes minutes: CORPUS=folder python -m pytest -m slow tests/test_acceptance_retrain.py
"""

import asyncio
import json
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from sqlalchemy import select, update

from bot.admin_texts import RU
from db import jobs, queries, retraining, versions
from db.models import Generation, ModelVersion, Retraining, RetrainingStatus, now
from ml import candidate, corpus, judges, registry, taste, texts
from ml.retrain import PROMPTS, STORIES
from ml.votes import Selection
from tests.service import READER_ID, ROOT, SECONDS, Service, kill, open_service
from tests.telegram_server import Message
from tests.test_ml_authors import write
from tests.test_ml_votes import cast

ADMIN_ID = 900
SEED = {"seed": 1837}  # of the story that tells versions apart
TINY: dict[str, Any] = {
    "openings": 3,
    "tokens": 12,
    "sft": {"window": 64, "batch": 2, "rows": 2, "rank": 4, "epochs": 1, "log_every": 1},
    "preference": {"batch": 4, "rank": 4, "save_every": 2, "length": 64},
    # What so few steps reach is no better than chance: the bars are for the real recipe.
    "bars": {
        "preference_accuracy": 0.0,
        "beyond_chance": -9.0,
        "bits_worse": 9.0,
        "repeated_4grams": 1.0,
        "sentence_end": 0.0,
        "attributed_worse": 1.0,
        "verbatim_under_80": 0.0,
    },
}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as service:
        yield service


def write_corpus(folder: Path) -> Path:
    """Write a corpus of invented authors, one of whom has the works that the split holds out."""
    split = corpus.load_split()
    held_out = [*split["validation"][:1], *split["test"][:1]]
    shelves = {
        "И. Белов": [*held_out, "pushkin/a.txt", "pushkin/b.txt"],
        "П. Горский": ["gorsky/a.txt", "gorsky/b.txt", "gorsky/c.txt"],
    }
    rows = ["file\tauthor\ttitle\tgenre"]
    for author, files in shelves.items():
        for number, file in enumerate(files):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(write(author, 120, number) + "\n", "utf-8")
            rows.append(f"{file}\t{author}\t{file}\tprose")
    (folder / "SOURCES.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


async def simulate(service: Service, *words: str) -> None:
    """Fill the service's database with scripted votes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.simulate_votes", *words),
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": str(service.database.engine.url), "HF_HUB_OFFLINE": "1"},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0


def settings_of(service: Service, corpus_folder: Path, recipe: Path) -> dict[str, str]:
    """Return the environment of the retrainer; bot and worker find the same."""
    return {
        "ADMIN_IDS": str(ADMIN_ID),
        "CORPUS": str(corpus_folder),
        "MODELS": str(service.folder / "models"),
        "RETRAIN_RECIPE": str(recipe),
        "RETRAIN_MIN_RATINGS": "10",
        "STORY_TOKENS": "24",
        "OMP_NUM_THREADS": "1",
    }


async def ask(service: Service) -> None:
    """Say /retrain and confirm."""
    admin, before = service.server.user(ADMIN_ID), len(service.server.answers)
    await service.server.say(admin, "/retrain")
    asked = lambda: [m for m in said(service) if RU.ask in m.text]  # noqa: E731
    await service.wait(asked, "the question")
    await service.server.tap(admin, asked()[-1].message_id, RU.train)
    toasts = lambda: [a.text for a in service.server.answers[before:]]  # noqa: E731
    await service.wait(toasts, "a toast")
    assert toasts() == [RU.requested]


def said(service: Service) -> list[Message]:
    """Return what the bot has told the admin."""
    return [m for m in service.server.messages(ADMIN_ID) if m.from_bot]


async def tap(service: Service, label: str) -> None:
    """Tap the newest button of the admin's that begins so."""
    for message in reversed(said(service)):
        for button in message.buttons:
            if button["text"].startswith(label):
                admin = service.server.user(ADMIN_ID)
                await service.server.tap(admin, message.message_id, button["text"])
                return
    raise AssertionError(f"no button {label}: {[m.text for m in said(service)]}")


async def row_of(service: Service) -> Retraining:
    async with service.database.read() as session:
        row = await retraining.latest(session)
        assert row is not None
        return row


async def active(service: Service) -> ModelVersion:
    async with service.database.read() as session:
        return (await versions.serving(session))[0]


async def outlive_the_lease(service: Service) -> None:
    """Let the killed process's lease run out at once: tests do not wait a minute."""
    async with service.database.write() as session:
        held = Retraining.status == RetrainingStatus.RUNNING
        await session.execute(update(Retraining).where(held).values(lease_until=now()))


async def seeded(service: Service, number: int) -> tuple[int, bytes]:
    """Have a story written by a fixed seed; return the version that wrote it and its bytes."""
    async with service.database.write() as session:
        await queries.remember_user(session, READER_ID, "ru")
        job = await jobs.enqueue(
            session,
            user_id=READER_ID,
            chat_id=READER_ID,
            private=True,
            request_message_id=9_000_000 + number,
            prompt="Мороз и солнце",
            settings=SEED,
        )
    async with asyncio.timeout(SECONDS):
        while True:
            async with service.database.read() as session:
                found = await session.scalars(select(Generation).where(Generation.job_id == job.id))
                if generation := found.one_or_none():
                    return generation.model_version_id, generation.text.encode()
            await asyncio.sleep(0.05)


async def until_served(service: Service, version: ModelVersion) -> None:
    """Wait until the worker says that this version writes its new stories."""
    name = f"new stories are written by {version.name} {version.version}"
    await service.wait(
        lambda: (re.findall("new stories.*", service.log("ml.worker")) or [""])[-1] == name, name
    )


async def until(service: Service, reached: Callable[[], bool], what: str) -> None:
    """Wait for a phase, in the small steps that a short one needs."""
    async with asyncio.timeout(SECONDS):
        while not reached():
            row = await row_of(service)
            assert row.status != "failed", f"{what}: {row.error}"
            await asyncio.sleep(0.005)


async def active_soon(service: Service) -> ModelVersion:
    """Wait for the worker; return the version that answers readers."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with service.database.read() as session:
                if found := await versions.serving(session):
                    return found[0]
            await asyncio.sleep(0.1)


@pytest.mark.timeout(600)
async def test_a_retraining_that_is_killed_in_every_phase_reaches_its_version(
    service: Service,
) -> None:
    folder = service.folder
    await simulate(service, "--votes", "60", "--readers", "6", "--tokens", "16")
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(TINY), "utf-8")
    environment = settings_of(service, write_corpus(folder / "corpus"), recipe)
    await service.start("bot", **environment)
    await service.start("ml.worker", **environment)
    parent = await active_soon(service)
    before = await seeded(service, 0)
    assert before[0] == parent.id

    # A disk that takes no weights: the admin reads why, and nothing else happens.
    await ask(service)
    retrainer = await service.start("ml.retrain", **environment)
    resource.prlimit(retrainer.pid, resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))
    refused = lambda: [m for m in said(service) if m.text.startswith("❌")]  # noqa: E731
    await service.wait(refused, "a failure")
    assert "File too large" in refused()[0].text
    assert not (folder / "data/retrain/1").exists()
    await kill(retrainer)

    await ask(service)
    work = folder / "data/retrain/2"
    phases: dict[str, Callable[[], bool]] = {
        "export": lambda: work.exists(),
        "sft": lambda: (work / "sft/run/metrics.jsonl").exists(),
        "preference": lambda: (work / "preference/metrics.jsonl").exists(),
        "votes, once more": lambda: any(work.glob("preference/checkpoints/checkpoint-*")),
        "gate": lambda: (work / "before.json").exists(),
        "publish": lambda: any((folder / "models").glob("*/.*.part")),
    }
    for number, (phase, reached) in enumerate(phases.items(), 1):
        retrainer = await service.start("ml.retrain", **environment)
        await until(service, reached, phase)
        await kill(retrainer)
        assert (await row_of(service)).status == "running", f"killed too late for {phase}"
        assert await seeded(service, number) == before  # served by the parent all along
        await outlive_the_lease(service)
    await service.start("ml.retrain", **environment)
    ended = lambda: [m for m in said(service) if RU.verdict_active in m.text]  # noqa: E731
    await service.wait(ended, "the table")
    row = await row_of(service)
    assert (row.status, row.attempts) == ("done", len(phases) + 1)
    assert not (work / "plan.json").exists()  # readers' votes
    assert not list((folder / "models").glob("*/.*.part"))  # cleaned up at the start
    await service.wait(lambda: [m for m in said(service) if RU.stories in m.text], "the stories")
    assert any(c.method == "sendPhoto" and c.ok for c in service.server.calls)

    made = await active(service)
    assert made.parent_id == parent.id
    await until_served(service, made)
    assert "converting" not in service.log("ml.worker")  # the retrainer had done it
    after = await seeded(service, 100)
    assert after[0] == made.id
    assert after[1] != before[1]
    await service.wait(
        lambda: [m for m in said(service) if any("⏪" in b["text"] for b in m.buttons)], "the way"
    )
    await tap(service, "⏪")
    await until_served(service, parent)
    assert await seeded(service, 101) == before  # byte for byte


def real_corpus() -> Path:
    folder = Path(os.environ.get("CORPUS", ROOT / "data/corpus"))
    if not folder.is_dir():
        pytest.skip(f"{folder}: no corpus; python -m scripts.build_corpus --download")
    return folder.resolve()


async def retrain(service: Service, *words: str) -> dict[str, Any]:
    """Go the whole way at full size; return the report."""
    await simulate(service, *words)
    recipe = ROOT / "ml/data/retrain.json"
    environment = settings_of(service, real_corpus(), recipe) | {"RETRAIN_MIN_RATINGS": "40"}
    for module in ("bot", "ml.worker", "ml.retrain"):
        await service.start(module, **environment)
    await active_soon(service)
    await ask(service)
    async with asyncio.timeout(40 * 60):
        while not (row := await row_of(service)).report:
            assert row.status != "failed", row.error
            await asyncio.sleep(1)
    report: dict[str, Any] = row.report
    print(json.dumps({k: v for k, v in report.items() if k != "curves"}, ensure_ascii=False))
    return report


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_the_readers_taste_reaches_the_model(service: Service) -> None:
    report = await retrain(service, "--votes", "640")
    figures = {figure["name"]: figure for figure in report["figures"]}
    before, after = (
        fmean(taste.sentence_length(text) for text in kept(service, name)["stories"])
        for name in ("before", "after")
    )
    print(f"words a sentence: {before:.1f} -> {after:.1f}; {report['minutes']} minutes")
    assert report["verdict"] == "active"
    assert figures["preference_accuracy"]["after"] >= 0.6
    assert after < before


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_votes_that_mean_nothing_are_refused(service: Service) -> None:
    report = await retrain(service, "--votes", "640", "--shuffled")
    assert report["verdict"] == "candidate"
    assert "preference_accuracy" in report["reasons"]
    assert (await active(service)).parent_id is None


def kept(service: Service, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (service.folder / f"data/retrain/1/{name}.json").read_text("utf-8")
    )
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_model_that_learnt_one_text_by_heart_is_refused(tmp_path: Path) -> None:
    """Past ``votes.select``, which would have left one vote of them all."""
    works, split = corpus.read_works(real_corpus()), corpus.load_split()
    data = texts.load(real_corpus(), {"pushkin": ["pushkin"]})
    stories = texts.read_stories(STORIES)
    everything = [
        cast(
            number,
            completion=" Он встал и пошёл к окну." * 8 if liked else stories[number],
            liked=liked,
        )
        for number in range(40)
        for liked in (True, False)
    ]
    config = candidate.read_config((ROOT / "ml/data/retrain.json").read_text("utf-8"))
    made = candidate.make(
        registry.bundled(),
        Selection(tuple(everything), {}, None),
        candidate.BaseTexts([], data.validation, texts.read_json(PROMPTS)[: config.openings]),
        judges.fit(works, split),
        replace(
            config,
            mixed=0.0,
            sft=replace(
                config.sft, rate=2e-3, epochs=15, window=128, batch=2, rows=2, validate_every=15
            ),
        ),
        tmp_path / "work",
        lambda *_: True,
        root=tmp_path / "models",
    )
    for line in made.lines:
        print(line)
    print(made.stories[0]["after"])
    assert {"repeated_4grams", "attributed"} & set(made.reasons)
