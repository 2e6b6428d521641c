"""The worker: takes jobs from the queue, writes their stories together, streams them back.

python -m ml.worker

It starts with the model of the settings and then follows the table: a version that is activated,
or a candidate that gets a share of the stories, is loaded and written with; no job waits for it.
SIGTERM: takes no new job, finishes those under way, then ends. SIGINT: gives them back at once.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ctypes.util import find_library
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode
from sqlalchemy.ext.asyncio import AsyncSession

from db import jobs, queries, versions
from db.migrate import upgrade
from db.models import Job, now
from db.session import UNAVAILABLE, Database, DatabaseError, DatabaseSettings, connect
from db.settings import Settings, SettingsError
from ml import conversion, registry
from ml.apart import Apart
from ml.decoding import Sampling, chosen, trim
from ml.engine import (
    EchoEngine,
    Engine,
    EngineError,
    GenerationError,
    PromptTooLongError,
    Request,
    Stream,
)
from ml.serving import Load, Served, Serving

TICK = 0.25  # seconds between looks for new jobs, if no slot becomes free before
BEAT = 0.5  # seconds between streams to the database: a cancel is noticed within one
RESCUE_EVERY = 5.0  # seconds between looks for the jobs of silent workers
FOLLOW_EVERY = 1.0  # seconds between looks for the versions to serve

log = logging.getLogger("worker")


class WorkerSettings(Settings):
    """The worker's settings; the database's are in ``db.session``."""

    model: str = Field(
        "ml/pretrained/pushkin-mini",
        description="local model folder or hub id that writes; ENGINE=openai: the servers' name",
    )
    engine: Literal["auto", "openvino", "torch", "openai", "echo"] = Field(
        "auto",
        description="what runs the model: auto (torch on CUDA, else openvino where it can), "
        "openvino, torch, openai (servers, deploy/vllm.md), or echo (no model, for trying the bot)",
    )
    engine_urls: Annotated[list[str], NoDecode] = Field(
        [], description="ENGINE=openai: the servers' addresses up to /v1, separated by commas"
    )
    engine_key: str | None = Field(None, description="ENGINE=openai: the servers' key, if any")
    engine_context: int = Field(
        0,
        ge=0,
        description="ENGINE=openai: tokens the model holds; 0: as the servers say, else 2048",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    slots: int = Field(8, ge=1, description="stories written at the same time")
    story_tokens: int = Field(320, ge=1, description="the longest story, in tokens")
    worker_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR"
    )

    @field_validator("engine_urls", mode="before")
    @classmethod
    def _are_addresses(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, list) and not all(str(url).startswith("http") for url in value):
            raise ValueError("each should begin with http:// or https://")
        return value


@dataclass
class Writing:
    """A job under way: what has been written, by which settings."""

    stream: Stream
    request: Request
    version_id: int
    started_at: datetime
    text: str = ""


class Worker:
    """Writes up to ``slots`` stories, each a task that gathers its text; one loop beats for all.

    A local engine holds keys and values for as many stories as it has slots: to claim a job only
    for a free slot is to admit it only to free cache. All others wait in the database, so that
    1,000 queued jobs cost no memory here. A slot is free when the story's last piece has come;
    while that story is stored, the next one is claimed.
    """

    def __init__(
        self,
        database: Database,
        engine: Engine,
        *,
        slots: int,
        sampling: Sampling | None = None,
        load: Load | None = None,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._database, self._engine, self._slots = database, engine, slots
        self._sampling = sampling or Sampling()
        self._serving = Serving(load or _load_none, self._note)
        self._writings: dict[jobs.Claim, Writing] = {}
        self._tasks: dict[jobs.Claim, asyncio.Task[None]] = {}
        self._taken: set[jobs.Claim] = set()  # slots
        self._wake = asyncio.Event()
        self._stopping = self._giving_back = False
        self._dead: EngineError | None = None

    async def run(self, *, until_empty: bool = False) -> None:
        """Work until stopped, or until the queue is empty. Raises EngineError if it dies."""
        try:
            await self._register()
            await self._work(until_empty)
        finally:
            await self._serving.close()

    async def _register(self) -> None:
        """Note the engine it was started with; wait for what the table serves in its place."""
        card = self._engine.card
        async with self._database.write() as session:
            version_id = await queries.register_model(
                session,
                name=card.name,
                version=card.version,
                prompt_tokens=card.prompt_tokens,
                prompt_characters=card.prompt_characters,
                meta=card.meta,
            )
        self._serving.add(Served(version_id, card.name, card.version, None, 0.0), self._engine)
        await self._serving.settle(await self._versions())
        log.info("%s started with %s %s", self.name, card.name, card.version)

    async def _versions(self) -> list[Served]:
        async with self._database.read() as session:
            return [
                Served(row.id, row.name, row.version, row.folder, row.share)
                for row in await versions.serving(session)
            ]

    async def _note(self, version: Served, trouble: str | None) -> None:
        """Let the admins see why a version does not answer, or that nothing keeps it any more."""

        async def change(session: AsyncSession) -> bool:
            await versions.set_trouble(session, version.id, trouble)
            return True

        await self._settle(change)

    async def _work(self, until_empty: bool) -> None:
        loop = asyncio.get_running_loop()
        next_beat = next_rescue = loop.time()
        next_follow = loop.time() + FOLLOW_EVERY
        while not (self._stopping and not self._tasks):
            taken = 0
            try:
                # First of all: after a while without a database our own leases have run out.
                if loop.time() >= next_beat:
                    next_beat = loop.time() + BEAT
                    await self._beat()
                if loop.time() >= next_rescue:
                    next_rescue = loop.time() + RESCUE_EVERY
                    await self._rescue()
                if loop.time() >= next_follow:
                    next_follow = loop.time() + FOLLOW_EVERY
                    await self._serving.follow(await self._versions())
                if not self._stopping:
                    taken = await self._claim()
            except UNAVAILABLE as error:  # a busy or restarting database
                log.warning("the database does not answer: %s", error)
            if until_empty and not taken and not self._tasks:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK)
            self._wake.clear()
        if self._dead:
            raise self._dead

    def drain(self) -> None:
        """Take no new job; ``run`` returns when those under way are finished."""
        self._stopping = True
        self._wake.set()

    async def give_back(self) -> None:
        """Put the jobs under way back into the queue, as if never tried, and end."""
        self._stopping = self._giving_back = True
        self._wake.set()
        for writing in self._writings.values():
            writing.stream.cancel()
        await asyncio.gather(*self._tasks.values())  # what is being stored right now is stored

    async def _rescue(self) -> None:
        async with self._database.write() as session:
            if rescued := await jobs.rescue(session):
                log.warning("took back %d jobs of a silent worker", rescued)

    async def _claim(self) -> int:
        """Start as many due jobs as there are free slots; return how many."""
        # Stories that are being stored hold no slot, but a database that is slow at it must not
        # be given more and more of them.
        free = min(self._slots - len(self._taken), 2 * self._slots - len(self._tasks))
        if free <= 0:
            return 0
        async with self._database.write() as session:
            claimed = await jobs.claim(session, self.name, free)
            if self._giving_back:  # the signal came while the database answered
                for job in claimed:
                    await jobs.release(session, jobs.Claim(job.id, self.name, job.attempts))
                return 0
        for job in claimed:
            claim = jobs.Claim(job.id, self.name, job.attempts)
            self._taken.add(claim)
            task = asyncio.create_task(self._write(claim, job))
            self._tasks[claim] = task
            task.add_done_callback(partial(self._forget, claim))
        return len(claimed)

    def _forget(self, claim: jobs.Claim, _task: object) -> None:
        self._tasks.pop(claim, None)
        self._wake.set()

    def _free(self, claim: jobs.Claim) -> None:
        """Give the slot back and have the loop fill it at once."""
        self._taken.discard(claim)
        self._wake.set()

    async def _beat(self) -> None:
        """Stream the texts so far; stop what was cancelled or lost."""
        texts = {claim: writing.text for claim, writing in self._writings.items()}
        if not texts:
            return
        async with self._database.write() as session:
            alive = await jobs.stream(session, texts)
        for claim in texts.keys() - alive:
            if writing := self._writings.get(claim):
                log.info("job %d was cancelled or lost", claim.job_id)
                writing.stream.cancel()

    async def _write(self, claim: jobs.Claim, job: Job) -> None:
        """Write one job's story from its claim to its end."""
        held = self._serving.take(job.id)
        started_at = now()
        try:
            sampling = chosen(job.settings, self._sampling)
            seed = job.settings.get("seed", secrets.randbits(31))
            request = Request(job.prompt, job.context, sampling, seed=seed)
            stream = await held.engine.submit(request)
            self._writings[claim] = writing = Writing(stream, request, held.version.id, started_at)
            if self._giving_back:  # claimed at the last moment
                writing.stream.cancel()
            async for piece in writing.stream:
                writing.text += piece.replace("\0", "")  # which PostgreSQL does not store
            self._free(claim)
            if writing.stream.finish_reason != "cancelled":
                await self._finish(claim, writing)
            elif self._giving_back:
                await self._release(claim)
        except (PromptTooLongError, ValueError) as error:  # will not be better next time
            await self._fail(claim, str(error), retry=False)
        except GenerationError as error:
            log.error("job %d: %s", claim.job_id, error)
            await self._fail(claim, str(error), retry=True)
        except EngineError as error:  # dead: what others write is finished, then the worker ends
            self._dead = error
            self.drain()
            await self._release(claim)
        finally:
            self._free(claim)
            self._writings.pop(claim, None)
            self._serving.give_back(held)

    async def _finish(self, claim: jobs.Claim, writing: Writing) -> None:
        stream, request = writing.stream, writing.request
        text = trim(writing.text) if stream.finish_reason == "length" else writing.text.rstrip()
        if not text.strip():
            await self._fail(claim, "the model wrote nothing", retry=True)
            return
        answer = jobs.Answer(
            text=text,
            model_version_id=writing.version_id,
            seed=request.seed,
            settings=asdict(request.sampling),
            tokens=stream.tokens,
            finish_reason=stream.finish_reason or "stop",
            started_at=writing.started_at,
        )
        held = await self._settle(lambda session: jobs.finish(session, claim, [answer]))
        log.info("job %d: %s", claim.job_id, f"{stream.tokens} tokens" if held else "lost")

    async def _release(self, claim: jobs.Claim) -> None:
        await self._settle(lambda session: jobs.release(session, claim))

    async def _fail(self, claim: jobs.Claim, error: str, *, retry: bool) -> None:
        await self._settle(lambda session: jobs.fail(session, claim, error, retry=retry))

    async def _settle(self, change: Callable[[AsyncSession], Awaitable[bool]]) -> bool:
        """Commit a job's end or the like; False if the database stays away."""
        try:
            return await self._database.insist(change)
        except UNAVAILABLE as error:
            log.warning("the database stays away: %s", error)
        return False  # a job's lease runs out meanwhile: another worker writes the story


def make_engine(settings: WorkerSettings) -> Engine:
    """Return the engine that the settings name; a library is imported only for its own.

    Raises EngineError if it is not installed.
    """
    if settings.engine == "echo":
        return EchoEngine(delay=0.05, words=settings.story_tokens // 8)
    kind = _local_engine(settings) if settings.engine == "auto" else settings.engine
    try:
        return _import_engine(kind, settings)
    except ModuleNotFoundError as error:
        extra = {"openvino": "worker", "torch": "torch", "openai": "remote"}[kind]
        raise EngineError(
            f"no {error.name} here; install with: pip install -c constraints.txt -e '.[{extra}]'"
        ) from error


def _import_engine(kind: str, settings: WorkerSettings) -> Engine:
    if kind == "openai":
        from ml.engine_openai import OpenAIEngine

        return OpenAIEngine(
            settings.model,
            settings.engine_urls,
            key=settings.engine_key or "",
            context=settings.engine_context,
        )
    if kind == "openvino":
        for library in ("numpy", "openvino_genai", "tokenizers"):
            if not find_spec(library):
                raise ModuleNotFoundError(name=library)
        # It holds Python's lock while it steps.
        return Apart("ml.engine_openvino:OpenVINOEngine", settings.model, slots=settings.slots)
    from ml.engine_torch import TorchEngine

    return TorchEngine(settings.model, device=settings.device, slots=settings.slots)


def _local_engine(settings: WorkerSettings) -> str:
    """Choose for this machine: torch on CUDA, else OpenVINO if it is here and takes the model."""
    if settings.device == "cuda" or (settings.device == "auto" and _sees_cuda()):
        return "torch"
    fits = conversion.convertible(Path(settings.model))
    return "openvino" if fits and find_spec("openvino_genai") else "torch"


def _sees_cuda() -> bool:
    """Ask torch, but only where there is a driver: torch takes seconds to import."""
    if not (find_spec("torch") and find_library("cuda")):
        return False
    from ml.engine_torch import sees_cuda

    return sees_cuda()


async def _load_none(version: Served) -> Engine:
    raise EngineError(f"this worker writes only with what it was started with, not with {version}")


def make_load(settings: WorkerSettings) -> Load:
    """Return what opens versions of the table by the settings; echo and servers open none."""
    if settings.engine in ("echo", "openai"):
        return _load_none

    async def load(version: Served) -> Engine:
        model = settings.model
        if version.folder:
            model = str(await asyncio.to_thread(_open_folder, version, Path(version.folder)))
        engine = make_engine(settings.model_copy(update={"model": model}))
        await engine.start()
        card = engine.card
        if not version.folder and (card.name, card.version) != (version.name, version.version):
            await engine.close()
            raise EngineError(f"MODEL is {card.name} {card.version} now")
        return engine

    return load


def _open_folder(version: Served, folder: Path) -> Path:
    found = registry.read(folder)
    if (found.name, found.version) != (version.name, version.version):
        raise registry.RegistryError(f"{folder}: holds {found.name} {found.version}")
    try:
        return registry.open_version(found)
    except ModuleNotFoundError as error:  # only an adapter that was never opened here needs any
        raise registry.RegistryError(f"{folder}: opening it needs {error.name}") from error


async def serve(settings: WorkerSettings) -> None:
    """Run a worker until a signal ends it."""
    database = connect(DatabaseSettings.load().database_url)
    engine = make_engine(settings)
    try:
        await upgrade(database)
        await engine.start()
        sampling = replace(Sampling(), max_tokens=settings.story_tokens)
        worker = Worker(
            database,
            engine,
            slots=settings.slots,
            sampling=sampling,
            load=make_load(settings),
        )
        loop = asyncio.get_running_loop()
        hurry: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(signal.SIGTERM, worker.drain)
        loop.add_signal_handler(
            signal.SIGINT, lambda: hurry.add(asyncio.create_task(worker.give_back()))
        )
        try:
            await worker.run()
        finally:
            await engine.close()
        await asyncio.gather(*hurry)
    finally:
        await database.close()


def main() -> None:
    try:
        settings = WorkerSettings.load()
        logging.basicConfig(
            level=settings.worker_log_level,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        for library in ("alembic", "httpx2"):  # the latter writes a line for every request
            logging.getLogger(library).setLevel(logging.WARNING)
        asyncio.run(serve(settings))
    except (DatabaseError, EngineError, SettingsError) as error:
        sys.exit(f"worker: {error}")
    except KeyboardInterrupt:  # before the worker took over the signal
        sys.exit(130)


if __name__ == "__main__":
    main()
