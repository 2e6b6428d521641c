"""The retraining process: makes a candidate out of the readers' votes when an admin asks for it.

python -m ml.retrain

Runs on the worker's machine, beside it, and is never in the readers' way. SIGTERM, SIGINT and an
admin's wish end a training at its next step, what is between two trainings (judging, converting) at
its end; what it was at goes on when it is started again, as after kill -9.
"""

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from db import queries, retraining, versions
from db.migrate import upgrade
from db.models import Retraining, now
from db.session import UNAVAILABLE, Database, DatabaseError, DatabaseSettings, connect
from db.settings import Settings, SettingsError
from ml import conversion, corpus, registry, texts
from ml.registry import RegistryError, Version
from ml.worker import WorkerSettings

if TYPE_CHECKING:
    from ml.candidate import CandidateConfig, Made
    from ml.plan import Parent, Plan
    from ml.votes import Selection

T = TypeVar("T")

TICK = 1.0  # seconds between looks for a retraining, and between its reports
ALL = 1_000_000  # versions
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


class AwayError(Exception):
    """The database stays away."""


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
            await self._attempt(row, held, work)
        except AwayError as error:  # the lease runs out; whoever claims it then goes on
            log.error("retraining %d: %s", row.id, error)

    async def _attempt(self, row: Retraining, held: dict[str, Any], work: Path) -> None:
        try:
            if missing := _missing():
                raise RetrainError(f"no {', '.join(missing)} here; install with: {INSTALL}")
            plan, config, selection = await self._prepare(row, work)
            training = asyncio.create_task(
                asyncio.to_thread(self._train, config, selection, plan.parent, work)
            )
            while not training.done():
                await self._beat(held)
                await asyncio.wait([training], timeout=TICK)
            await self._close(held, row, await training, plan, config, selection, work)
        except AwayError:
            raise
        except _stopped():
            log.info("retraining %d was stopped", row.id)
            if self._stopping:  # whoever is started next goes on with it
                await self._settle(lambda session: retraining.release(session, **held))
            else:  # cancelled: nobody does
                shutil.rmtree(work, ignore_errors=True)
        except Exception as error:  # whatever it was, the admin hears of it and readers do not
            log.exception("retraining %d", row.id)
            line = _line(error)
            await self._settle(lambda session: retraining.fail(session, **held, error=line))
            shutil.rmtree(work, ignore_errors=True)  # nobody goes on with it; the disk may be full

    async def _settle(self, change: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Ask and change the database. Raises AwayError."""
        try:
            return await self._database.insist(change)
        except UNAVAILABLE as error:
            raise AwayError(f"the database stays away: {error}") from error

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
    ) -> tuple["Plan", "CandidateConfig", "Selection"]:
        """Return what the first attempt began with, unless a vote was taken back since."""
        from ml import plan, votes
        from ml.candidate import read_config

        rated = await self._settle(queries.rated)
        speaking = await self._settle(queries.speaking_model)
        known = await self._settle(lambda session: versions.versions(session, ALL))
        if speaking is None:
            raise RetrainError("no version answers readers yet: start a worker")
        parent = plan.Parent(
            id=speaking.id,
            name=speaking.name,
            version=speaking.version,
            folder=speaking.folder,
            prompt_tokens=speaking.prompt_tokens,
            prompt_characters=speaking.prompt_characters,
        )

        def begin() -> tuple["Plan", "CandidateConfig", "Selection"]:
            allowed = [votes.vote(**vars(vote)) for vote in rated if vote.consent]
            begun = plan.load(work)
            if begun is None or not begun.voters() <= _voters(rated):
                shutil.rmtree(work, ignore_errors=True)
                recipe = self._settings.retrain_recipe.read_text("utf-8")
                begun = plan.Plan(parent, recipe, row.settings.get("minimum", 1), tuple(allowed))
                read_config(recipe)
                plan.save(begun, work)
            config = read_config(begun.recipe)
            return begun, config, votes.select(begun.votes, cap=config.cap, minimum=begun.minimum)

        begun, config, selection = await asyncio.to_thread(begin)
        same = {
            "parent": f"{begun.parent.name}/{begun.parent.version}",
            "data_sha256": votes.digest(selection.votes),
            "config": json.loads(json.dumps(asdict(config))),
        }
        for version in known:
            if all(version.meta.get(key) == value for key, value in same.items()):
                name = f"{version.name} {version.version}"
                raise RetrainError(f"{name} was made of these very votes already")
        return begun, config, selection

    def _train(
        self, config: "CandidateConfig", selection: "Selection", parent: "Parent", work: Path
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
        if not made.reasons:
            _convert(registry.open_version(made.version))
        return made

    def _version(self, parent: "Parent") -> Version:
        """Return the version that answered readers when the retraining began."""
        if parent.folder is not None:
            return registry.resolve(self._settings.models, parent.name, parent.version)
        folder = Path(self._model)  # what the worker was started with
        if not folder.is_dir():
            raise RetrainError(
                f"MODEL is {self._model}, no folder: a retraining begins with a model on this "
                "machine; make one with: python -m scripts.finetune"
            )
        if folder.resolve() == registry.BUNDLED.resolve():
            version = registry.bundled()
        else:
            version = registry.publish(folder, parent.name, {}, self._settings.models)
        if (version.name, version.version) != (parent.name, parent.version):
            raise RetrainError(
                f"MODEL is {version.name} {version.version} here, but {parent.name} "
                f"{parent.version} answers readers"
            )
        return version

    async def _close(
        self,
        held: dict[str, Any],
        row: Retraining,
        made: "Made",
        plan: "Plan",
        config: "CandidateConfig",
        selection: "Selection",
        work: Path,
    ) -> None:
        """Enter the version and what is to become of it, in one transaction."""
        from ml.candidate import report
        from ml.plan import tidy
        from ml.plots import write_losses

        picture = (work / "loss.png").resolve()
        write_losses(made.curves, picture)
        assert row.started_at is not None, f"retraining {row.id} was not claimed"
        minutes = (now() - row.started_at).total_seconds() / 60

        async def enter(session: AsyncSession) -> str:
            if not plan.voters() <= _voters(await queries.rated(session)):
                raise RetrainError("a vote was taken back meanwhile: ask for the retraining again")
            speaking = await queries.speaking_model(session)
            chosen = speaking is not None and speaking.id == plan.parent.id
            verdict = "trial" if config.trial else "active"
            if made.reasons or not chosen:  # an admin's choice since then is not overruled
                verdict = "candidate"
            version = await versions.add_candidate(
                session,
                name=made.version.name,
                version=made.version.version,
                folder=str(made.version.folder),
                parent_id=plan.parent.id,
                prompt_tokens=plan.parent.prompt_tokens,
                prompt_characters=plan.parent.prompt_characters,
                meta=dict(made.version.meta),
            )
            shown = {**report(made, selection, minutes, verdict), "picture": str(picture)}
            if not await retraining.finish(session, **held, report=shown, version_id=version.id):
                raise _stopped()[0]  # cancelled at the last moment: the version is not entered
            if verdict == "active":
                await versions.activate(session, version.id)
            elif verdict == "trial":
                await versions.set_share(session, version.id, config.trial)
            return verdict

        verdict = await self._settle(enter)
        log.info("retraining %d: %s %s", row.id, made.version.version, verdict)
        tidy([work])


def _voters(rated: Sequence[queries.RatedStory]) -> set[tuple[int, int]]:
    """Return who voted on what and may be learnt from, as ids of generation and reader."""
    return {(vote.generation_id, vote.user_id) for vote in rated if vote.consent}


def _convert(model: Path) -> None:
    """Convert a model where a worker on this machine will serve it so: it may have no torch."""
    from ml.engine_torch import sees_cuda

    if find_spec("openvino_genai") and not sees_cuda() and conversion.convertible(model):
        try:
            conversion.open_conversion(model)
        except conversion.ConversionError as error:  # the worker will say so, too
            log.error("%s", error)


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


async def clean(database: Database, folder: Path) -> None:
    """Delete what retrainings that are over have left: readers' votes, unfinished weights."""
    from ml.plan import tidy

    async with database.read() as session:
        going = await session.scalars(
            select(Retraining.id).where(Retraining.status.in_(retraining.UNDER_WAY))
        )
        kept = {str(number) for number in going}
    await asyncio.to_thread(
        lambda: tidy(work for work in folder.glob("*") if work.is_dir() and work.name not in kept)
    )


async def serve(settings: RetrainSettings) -> None:
    """Wait for retrainings until a signal ends it."""
    database = connect(DatabaseSettings.load().database_url)
    try:
        await upgrade(database)
        await asyncio.to_thread(registry.clean, settings.models)
        await clean(database, settings.retrain_work)
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
