"""The retraining process: makes a candidate out of the readers' votes when an admin asks for it.

python -m ml.retrain

Runs on the worker's machine, beside it, and is never in the readers' way. SIGTERM and SIGINT end it
at the next step; what it was at goes on when it is started again, as after kill -9.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from db import queries, retraining, versions
from db.migrate import upgrade
from db.models import ModelVersion, Retraining
from db.session import UNAVAILABLE, Database, DatabaseError, DatabaseSettings, connect
from db.settings import Settings, SettingsError
from ml import conversion, corpus, registry, texts
from ml.registry import RegistryError, Version
from ml.worker import WorkerSettings

if TYPE_CHECKING:
    from ml.candidate import CandidateConfig, Made
    from ml.votes import Selection

TICK = 1.0  # seconds between looks for a retraining, and between its reports
SETTLE_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between tries to note a failure
PROMPTS = Path(__file__).parent / "data" / "prompts.json"
INSTALL = "pip install -c constraints.txt -e '.[train]'"
STORIES = Path(__file__).parent / "data" / "sample_stories.jsonl"

log = logging.getLogger("retrain")


class RetrainSettings(Settings):
    """The retraining's settings; the database's are in ``db.session``."""

    models: Path = Field(registry.ROOT, description="folder of the retrained versions")
    corpus: Path = Field(Path("data/corpus"), description="corpus folder, for the gate")
    retrain_recipe: Path = Field(
        Path("ml/data/retrain.json"), description="settings of a retraining, as JSON"
    )
    retrain_work: Path = Field(
        Path("data/retrain"), description="folder of what a retraining has under way"
    )


class RetrainError(Exception):
    """What an admin must mend before a retraining can go on: one line."""


class _State:
    """How far the thread that trains has come, and whether it may go on."""

    def __init__(self) -> None:
        self.phase, self.progress, self.going = "export", dict[str, Any](), True

    def tell(self, phase: str, progress: dict[str, Any]) -> bool:
        self.phase, self.progress = phase, progress
        return self.going


class Retrainer:
    """Takes one retraining after the other; the training itself runs in a thread."""

    def __init__(
        self, database: Database, settings: RetrainSettings, *, model: str = str(registry.BUNDLED)
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._database, self._settings, self._model = database, settings, model
        self._state = _State()
        self._stopping = False

    async def run(self, *, until_empty: bool = False) -> None:
        """Work until stopped, or until nothing waits."""
        while not self._stopping:
            claimed = None
            try:
                async with self._database.write() as session:
                    claimed = await retraining.claim(session, self.name)
            except UNAVAILABLE as error:
                log.warning("the database does not answer: %s", error)
            if claimed:
                await self._carry_out(claimed)
            elif until_empty:
                return
            await asyncio.sleep(TICK)

    def stop(self) -> None:
        """End at the next step."""
        self._stopping = True
        self._state.going = False

    async def _carry_out(self, row: Retraining) -> None:
        held: dict[str, Any] = {
            "retraining_id": row.id,
            "worker": self.name,
            "attempt": row.attempts,
        }
        log.info("retraining %d, attempt %d", row.id, row.attempts)
        self._state = _State()
        work = self._settings.retrain_work / str(row.id)
        try:
            if missing := _missing():
                raise RetrainError(f"no {', '.join(missing)} here; install with: {INSTALL}")
            config, selection, parent = await self._prepare(row, work)
            started = time.monotonic()
            training = asyncio.create_task(
                asyncio.to_thread(self._train, config, selection, parent, work)
            )
            while not training.done():
                await self._beat(held)
                await asyncio.wait([training], timeout=TICK)
            made = await training
            minutes = (time.monotonic() - started) / 60
            await self._close(held, row, made, config, parent, selection, minutes, work)
        except _stopped():
            log.info("retraining %d was stopped", row.id)
            if self._stopping:  # whoever is started next goes on with it
                async with self._database.write() as session:
                    await retraining.release(session, **held)
            else:  # cancelled: nobody does
                shutil.rmtree(work, ignore_errors=True)
        except Exception as error:  # whatever it was, the admin hears of it and readers do not
            log.exception("retraining %d", row.id)
            await self._fail(held, _line(error))
            shutil.rmtree(work, ignore_errors=True)  # nobody goes on with it; the disk may be full

    async def _fail(self, held: dict[str, Any], line: str) -> None:
        """Note why it failed; a database that is away for a while is asked again."""
        for pause in SETTLE_PAUSES:
            try:
                async with self._database.write() as session:
                    await retraining.fail(session, **held, error=line)
            except UNAVAILABLE as error:
                log.warning("the database does not answer: %s", error)
                await asyncio.sleep(pause)
            else:
                return

    async def _beat(self, held: dict[str, Any]) -> None:
        """Report, and learn whether to go on."""
        state = self._state
        try:
            async with self._database.write() as session:
                alive = await retraining.report(
                    session, **held, phase=state.phase, progress=state.progress
                )
        except UNAVAILABLE as error:
            log.warning("the database does not answer: %s", error)
        else:
            state.going = alive and not self._stopping

    async def _prepare(
        self, row: Retraining, work: Path
    ) -> tuple["CandidateConfig", "Selection", ModelVersion | None]:
        """Read the votes once; a run that goes on keeps those it began with."""
        from ml import votes
        from ml.candidate import read_config

        config = read_config(self._settings.retrain_recipe)
        file = work / "votes.json"
        async with self._database.read() as session:
            parent = await queries.speaking_model(session)
            rated = [] if file.exists() else await queries.rated(session)

        def select() -> "Selection":
            if not file.exists():
                votes.save([votes.vote(**vars(vote)) for vote in rated if vote.consent], file)
            minimum = row.settings.get("minimum", 1)
            return votes.select(votes.load(file), cap=config.cap, minimum=minimum)

        return config, await asyncio.to_thread(select), parent

    def _train(
        self,
        config: "CandidateConfig",
        selection: "Selection",
        parent: ModelVersion | None,
        work: Path,
    ) -> "Made":
        """Make the candidate; in a thread of its own."""
        from ml import candidate, judges

        settings = self._settings
        if not settings.corpus.is_dir():
            raise RetrainError(
                f"{settings.corpus}: no corpus to measure by; "
                "get it with: python -m scripts.build_corpus --download"
            )
        version = self._version(parent)
        works, split = corpus.read_works(settings.corpus), corpus.load_split()
        found = judges.load(judges.FOLDER, works, split)
        if found is None:
            self._state.tell("export", {"judges": 1})
            judges.save(found := judges.fit(works, split), judges.FOLDER)
        data = texts.load(settings.corpus, {"pushkin": ["pushkin"]})
        base = candidate.BaseTexts(
            train=[*data.train["pushkin"], *texts.read_stories(STORIES)],
            validation=data.validation,
            openings=texts.read_json(PROMPTS)[: config.openings],
        )
        made = candidate.make(
            version, selection, base, found, config, work, self._state.tell, root=settings.models
        )
        _convert(registry.open_version(made.version))
        return made

    def _version(self, row: ModelVersion | None) -> Version:
        """Return the version that answers readers now."""
        if row is not None and row.folder is not None:
            return registry.resolve(self._settings.models, row.name, row.version)
        folder = Path(self._model)  # what the worker was started with
        if folder.resolve() == registry.BUNDLED.resolve():
            return registry.bundled()
        return registry.publish(folder, folder.name, {}, self._settings.models)

    async def _close(
        self,
        held: dict[str, Any],
        row: Retraining,
        made: "Made",
        config: "CandidateConfig",
        parent: ModelVersion | None,
        selection: "Selection",
        minutes: float,
        work: Path,
    ) -> None:
        """Enter the version and what is to become of it, in one transaction."""
        from ml.candidate import report
        from ml.plots import write_losses

        verdict = "candidate" if made.reasons else ("trial" if config.trial else "active")
        shown = {**report(made, selection, minutes, verdict)}
        picture = (work / "loss.png").resolve()
        write_losses(made.curves, picture)
        shown["picture"] = str(picture)
        async with self._database.write() as session:
            version = await versions.add_candidate(
                session,
                name=made.version.name,
                version=made.version.version,
                folder=str(made.version.folder),
                parent_id=parent.id if parent else None,
                prompt_tokens=parent.prompt_tokens if parent else 300,
                prompt_characters=parent.prompt_characters if parent else 1000,
                meta=dict(made.version.meta),
            )
            if not await retraining.finish(session, **held, report=shown, version_id=version.id):
                raise _stopped()[0]  # cancelled at the last moment: the version is not entered
            if verdict == "active":
                await versions.activate(session, version.id)
            elif verdict == "trial":
                await versions.set_share(session, version.id, config.trial)
        log.info("retraining %d: %s %s", row.id, made.version.version, verdict)
        for rest in ("sft", "preference", "merged"):
            shutil.rmtree(work / rest, ignore_errors=True)


def _convert(model: Path) -> None:
    """Convert a model where a worker on this machine will serve it so: it may have no torch."""
    from ml.engine_torch import sees_cuda

    if find_spec("openvino_genai") and not sees_cuda() and conversion.convertible(model):
        conversion.open_conversion(model)


def _missing() -> list[str]:
    """Return the libraries of a training that a worker was installed without."""
    return [
        name for name in ("torch", "trl", "peft", "datasketch", "sklearn") if not find_spec(name)
    ]


def _stopped() -> tuple[type[Exception], ...]:
    if _missing():
        return ()
    from ml.preference import StoppedError

    return (StoppedError,)


def _line(error: Exception) -> str:
    """Return an error in one line for the admin: our own words, or the library's with its kind."""
    words = " ".join(str(error).split())[:500]
    ours = type(error).__module__.split(".")[0] in ("ml", "db")
    return words if words and ours else f"{type(error).__name__}: {words}".rstrip(": ")


async def serve(settings: RetrainSettings) -> None:
    """Wait for retrainings until a signal ends it."""
    database = connect(DatabaseSettings.load().database_url)
    try:
        await upgrade(database)
        await asyncio.to_thread(registry.clean, settings.models)
        retrainer = Retrainer(database, settings, model=WorkerSettings.load().model)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, retrainer.stop)
        await retrainer.run()
    finally:
        await database.close()


def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        asyncio.run(serve(RetrainSettings.load()))
    except (DatabaseError, RegistryError, SettingsError) as error:
        sys.exit(f"retrain: {error}")


if __name__ == "__main__":
    main()
