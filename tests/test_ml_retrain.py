"""The retraining process: one row from the queue to its end, and what an admin reads of it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from db import jobs, queries, retraining, versions
from db.models import ModelVersion, Retraining, VersionStatus, now
from db.session import UNAVAILABLE, Database
from ml import gate, registry, retrain, votes
from ml.candidate import Made
from ml.checkpoint import export
from ml.finetune_loop import FinetuneError
from ml.preference import StoppedError
from ml.registry import RegistryError, Version
from ml.retrain import Retrainer, RetrainSettings
from tests import toy

READER = 5_000_000_001
LINE = gate.Line("preference_accuracy", None, 0.7, 0.55, passed=True)

Train = Callable[..., Made]  # in place of Retrainer._train


def made(folder: Path, *, reasons: list[str]) -> Made:
    version = Version("toy", "aaaabbbbcccc", folder, {"name": "toy", "bits_per_character": {}})
    story = {"opening": "Был вечер", "before": ".", "after": "!"}
    curves = {"sft": [[1, 3.0], [2, 2.5]], "preference": [[1, 0.5], [2, 0.4]]}
    return Made(version, [LINE], reasons, [story], curves)


async def vote(database: Database, number: int, *, liked: bool, consent: bool = True) -> None:
    """Lead one story through the queue and rate it."""
    async with database.write() as session:
        version = await queries.register_model(
            session,
            name="toy",
            version="111122223333",
            prompt_tokens=300,
            prompt_characters=900,
            meta={},
        )
        await queries.remember_user(session, READER + (not consent), "ru")
        await queries.set_consent(session, READER + (not consent), consent)
        job = await jobs.enqueue(
            session,
            user_id=READER + (not consent),
            chat_id=READER,
            private=True,
            request_message_id=number,
            prompt=f"Открыв окно номер {number}",
        )
        await jobs.claim(session, "test", 1)
        text = f"он увидел {number} саней, и {number + 7} собак, и снег."
        answer = jobs.Answer(text, version, 1, {}, 9, "stop", now())
        await jobs.finish(session, jobs.Claim(job.id, "test", 1), [answer])
        await session.refresh(job, ["generations"])
        await queries.rate(
            session, job.generations[0].id, READER + (not consent), 1 if liked else -1
        )


@pytest.fixture
def settings(tmp_path: Path) -> RetrainSettings:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"cap": 50}), "utf-8")
    return RetrainSettings(
        models=tmp_path / "models", retrain_recipe=recipe, retrain_work=tmp_path / "work"
    )


async def ask(database: Database, minimum: int = 2) -> int:
    async with database.write() as session:
        row = await retraining.request(
            session, requested_by=1, chat_id=1, language="ru", settings={"minimum": minimum}
        )
        assert row is not None
        return row.id


async def end(database: Database) -> Retraining:
    async with database.read() as session:
        row = await retraining.latest(session)
        assert row is not None
        return row


async def carry_out(
    database: Database,
    settings: RetrainSettings,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    *,
    minimum: int = 2,
) -> Retraining:
    monkeypatch.setattr(Retrainer, "_train", train)
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    await ask(database, minimum)
    await Retrainer(database, settings).run(until_empty=True)
    return await end(database)


def busy_once(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Let the database be away when ``db.retraining`` is first asked for this; return the calls."""
    change, calls = getattr(retraining, name), list[Any]()

    async def busy(*given: Any, **named: Any) -> bool:
        calls.append(named)
        if len(calls) == 1:
            raise UNAVAILABLE[0]("busy", None, Exception("busy"))
        return bool(await change(*given, **named))

    monkeypatch.setattr(retraining, name, busy)
    monkeypatch.setattr("db.session.PAUSES", (0.01, 0.01))
    return calls


async def active(database: Database) -> ModelVersion:
    async with database.read() as session:
        found = await queries.speaking_model(session)
        assert found is not None
        return found


async def test_candidate_that_passes_goes_active_and_the_old_one_retires(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = await carry_out(database, settings, lambda *_: made(tmp_path, reasons=[]), monkeypatch)
    assert (row.status, row.error) == ("done", None)
    assert row.report is not None
    assert row.report["verdict"] == "active"
    assert row.report["figures"] == [LINE._asdict()]
    assert row.report["votes"]["votes"] == 6
    picture = await asyncio.to_thread(Path(row.report["picture"]).read_bytes)
    assert picture.startswith(b"\x89PNG")
    serving = await active(database)
    assert (serving.version, serving.folder) == ("aaaabbbbcccc", str(tmp_path))
    assert serving.id == row.version_id
    async with database.read() as session:
        statuses = {v.version: v.status for v in await versions.versions(session, 9)}
    assert statuses["111122223333"] == VersionStatus.RETIRED


async def test_candidate_that_fails_the_gate_is_kept_and_never_served(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*_: object) -> Made:
        return made(tmp_path, reasons=["sentence_end"])

    row = await carry_out(database, settings, train, monkeypatch)
    assert row.report is not None
    assert (row.report["verdict"], row.report["reasons"]) == ("candidate", ["sentence_end"])
    assert (await active(database)).version == "111122223333"
    async with database.read() as session:
        assert [v.version for v in await versions.serving(session)] == ["111122223333"]
        assert (await versions.versions(session, 1))[0].status == VersionStatus.CANDIDATE


async def test_trouble_becomes_one_line_and_leaves_the_active_model_alone(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> Made:
        raise FinetuneError("out/x: cannot be written:\nNo space left on device")

    row = await carry_out(database, settings, train, monkeypatch)
    assert row.status == "failed"
    assert row.error == "out/x: cannot be written: No space left on device"
    assert (await active(database)).version == "111122223333"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RegistryError("models/x: corrupted"), "models/x: corrupted"),
        (KeyError("lora"), "KeyError: 'lora'"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("enforce fail\n  at the disk"), "RuntimeError: enforce fail at the disk"),
        (ValueError(), "ValueError"),
    ],
)
async def test_any_error_is_one_line_and_the_process_goes_on(
    database: Database,
    settings: RetrainSettings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    def train(*_: object) -> Made:
        raise error

    row = await carry_out(database, settings, train, monkeypatch)
    assert (row.status, row.error) == ("failed", line)
    assert (await active(database)).version == "111122223333"


async def test_a_database_that_is_away_hears_of_a_failure_later(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> Made:
        raise FinetuneError("out/x: broken")

    calls = busy_once(monkeypatch, "fail")
    row = await carry_out(database, settings, train, monkeypatch)
    assert (row.status, row.error, len(calls)) == ("failed", "out/x: broken", 2)


async def test_too_few_votes_are_told_with_how_many_are_missing(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await carry_out(
        database, settings, lambda *_: pytest.fail("trained"), monkeypatch, minimum=5
    )
    assert row.status == "failed"
    assert "4 are missing" in (row.error or "")


async def test_votes_without_consent_reach_no_file(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[str] = []

    def train(*given: Any) -> Made:
        work: Path = given[-1]
        kept.extend(
            line["prompt"] for line in json.loads((work / "plan.json").read_text("utf-8"))["votes"]
        )
        return made(tmp_path, reasons=[])

    await vote(database, 77, liked=True, consent=False)
    await carry_out(database, settings, train, monkeypatch)
    assert len(kept) == 6
    assert not any("77" in prompt for prompt in kept)


async def test_cancelled_retraining_stops_and_leaves_nothing_behind(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    def train(self: Retrainer, *_: object) -> Made:
        while self._state.tell("sft", {"step": 1}):
            pass
        stopped.append(True)
        raise StoppedError

    async def cancel() -> None:
        while (row := await end(database)).phase != "sft":
            await asyncio.sleep(0.01)
        async with database.write() as session:
            assert await retraining.cancel(session, row.id)

    monkeypatch.setattr(Retrainer, "_train", train)
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    number = await ask(database)
    await asyncio.gather(cancel(), Retrainer(database, settings).run(until_empty=True))
    assert stopped
    assert (await end(database)).status == "cancelled"
    assert not (settings.retrain_work / str(number)).exists()


async def test_broken_weights_of_the_parent_are_named(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"corpus": tmp_path})
    model = tmp_path / "broken"
    export(toy.toy_model(300, context=64), toy.toy_tokenizer(), {"name": "toy"}, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    await ask(database)
    await Retrainer(database, settings, model=str(model)).run(until_empty=True)
    row = await end(database)
    assert row.status == "failed"
    assert "corrupted" in (row.error or "")
    assert "model.safetensors" in (row.error or "")
    assert not (settings.retrain_work / str(row.id)).exists()
    assert not registry.list_versions(settings.models)


async def test_missing_corpus_names_the_command_that_gets_one(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"corpus": tmp_path / "nowhere"})
    row = await carry_out(database, settings, Retrainer._train, monkeypatch)
    assert row.status == "failed"
    assert "python -m scripts.build_corpus --download" in (row.error or "")


async def test_worker_without_the_libraries_names_the_command_that_installs_them(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str) -> Any:
        return None if name in ("trl", "peft") else object()

    monkeypatch.setattr(retrain, "find_spec", without)
    row = await carry_out(database, settings, lambda *_: pytest.fail("trained"), monkeypatch)
    assert row.status == "failed"
    assert row.error == f"no trl, peft here; install with: {retrain.INSTALL}"


async def test_run_that_a_signal_stopped_is_gone_on_with(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    retrainer = Retrainer(database, settings)
    loop = asyncio.get_running_loop()

    def train(self: Retrainer, *given: Any) -> Made:
        if self is retrainer:
            loop.call_soon_threadsafe(self.stop)
            while self._state.tell("sft", {"step": 1}):
                pass
            raise StoppedError
        assert (given[-1] / "plan.json").exists()  # the votes it began with
        return made(tmp_path, reasons=[])

    monkeypatch.setattr(Retrainer, "_train", train)
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    await ask(database)
    await retrainer.run()
    row = await end(database)
    assert (row.status, row.attempts) == ("queued", 0)  # for whoever comes next
    await Retrainer(database, settings).run(until_empty=True)
    row = await end(database)
    assert (row.status, row.attempts) == ("done", 1)


class GoneError(BaseException):
    """Stands for kill -9: nothing in the process handles it."""


class Killed:
    """A training that a kill cuts off at its first attempt; later attempts reach their end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempts: list[tuple[Any, Any]] = []  # parent, votes

    def __call__(self, *given: Any) -> Made:
        _, _, selection, parent, work = given
        self.attempts.append((parent, selection.votes))
        (work / "loss.json").write_text("{}", "utf-8")
        if len(self.attempts) == 1:
            raise GoneError
        return made(self.folder, reasons=[])


async def kill_first(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Killed:
    """Let a retraining's first attempt be killed; its lease is over."""
    training = Killed(folder)
    monkeypatch.setattr(Retrainer, "_train", lambda *given: training(*given))
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    await ask(database)
    with pytest.raises(GoneError):
        await Retrainer(database, settings).run(until_empty=True)
    async with database.write() as session:
        row = await retraining.latest(session)
        assert row is not None
        row.lease_until = now() - retraining.LEASE
    return training


async def add_version(database: Database, version: str, *, active: bool) -> None:
    async with database.write() as session:
        row = await versions.add_candidate(
            session,
            name="toy",
            version=version,
            folder=f"models/toy/{version}",
            parent_id=None,
            prompt_tokens=300,
            prompt_characters=900,
            meta={},
        )
        if active:
            await versions.activate(session, row.id)


async def test_attempt_after_a_kill_goes_on_with_the_parent_and_recipe_it_began_with(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An adapter trained on one version was merged into whichever was active by then."""
    training = await kill_first(database, settings, monkeypatch, tmp_path)
    await add_version(database, "777788889999", active=True)
    settings.retrain_recipe.write_text('{"cap": 1}', "utf-8")
    await Retrainer(database, settings).run(until_empty=True)
    row = await end(database)
    assert row.status == "done"
    (before, some), (after, same) = training.attempts
    assert before == after
    assert after.version == "111122223333"
    assert some == same
    assert row.report is not None
    assert row.report["verdict"] == "candidate"  # an admin's choice since then is not overruled
    assert (await active(database)).version == "777788889999"


async def test_withdrawn_consent_begins_a_killed_retraining_anew(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await vote(database, 98, liked=True, consent=False)
    await vote(database, 99, liked=False, consent=False)
    async with database.write() as session:
        await queries.set_consent(session, READER + 1, True)
    training = await kill_first(database, settings, monkeypatch, tmp_path)
    async with database.write() as session:
        await queries.set_consent(session, READER + 1, False)
    await Retrainer(database, settings).run(until_empty=True)
    (_, eight), (_, six) = training.attempts
    assert (len(eight), len(six)) == (8, 6)


async def test_consent_withdrawn_while_it_trains_keeps_the_version_out(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()

    async def withdraw() -> None:
        async with database.write() as session:
            await queries.set_consent(session, READER, False)

    def train(*_: object) -> Made:
        asyncio.run_coroutine_threadsafe(withdraw(), loop).result()
        return made(tmp_path, reasons=[])

    row = await carry_out(database, settings, train, monkeypatch)
    assert row.status == "failed"
    assert "taken back" in (row.error or "")
    assert (await active(database)).version == "111122223333"


async def test_readers_votes_are_deleted_when_it_is_over(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = await carry_out(database, settings, lambda *_: made(tmp_path, reasons=[]), monkeypatch)
    work = settings.retrain_work / str(row.id)
    assert [file.name for file in work.iterdir()] == ["loss.png"]


async def test_what_a_lost_retraining_left_is_deleted_at_the_next_start(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await kill_first(database, settings, monkeypatch, tmp_path)
    row = await end(database)
    work = settings.retrain_work / str(row.id)
    await retrain.clean(database, settings.retrain_work)
    assert (work / "plan.json").exists()  # it is to go on
    async with database.write() as session:
        assert await retraining.cancel(session, row.id)
    await retrain.clean(database, settings.retrain_work)
    assert not work.exists()


async def test_a_hub_model_is_refused_in_clear_words(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"corpus": tmp_path})
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    await ask(database)
    retrainer = Retrainer(database, settings, model="ai-forever/rugpt3medium_based_on_gpt2")
    await retrainer.run(until_empty=True)
    assert "python -m scripts.finetune" in ((await end(database)).error or "")


async def test_another_model_than_the_one_that_answers_is_not_trained(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"corpus": tmp_path})
    monkeypatch.setattr(retrain, "TICK", 0.01)
    for number in range(6):
        await vote(database, number, liked=number % 2 == 0)
    await ask(database)
    await Retrainer(database, settings).run(until_empty=True)  # MODEL is what ships
    assert "but toy 111122223333 answers readers" in ((await end(database)).error or "")


async def test_the_same_votes_make_no_second_version(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*given: Any) -> Made:
        _, config, selection, parent, _ = given
        meta = {
            "parent": f"{parent.name}/{parent.version}",
            "data_sha256": votes.digest(selection.votes),
            "config": asdict(config),
        }
        one = made(tmp_path, reasons=["sentence_end"])
        return replace(one, version=Version("toy", "aaaabbbbcccc", tmp_path, meta))

    await carry_out(database, settings, train, monkeypatch)
    await ask(database)
    await Retrainer(database, settings).run(until_empty=True)
    assert "aaaabbbbcccc was made of these very votes" in ((await end(database)).error or "")


async def test_a_database_that_is_away_at_the_end_costs_no_training(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = busy_once(monkeypatch, "finish")
    row = await carry_out(database, settings, lambda *_: made(tmp_path, reasons=[]), monkeypatch)
    assert (row.status, len(calls)) == ("done", 2)


async def test_a_database_that_stays_away_leaves_the_work_for_the_next_attempt(
    database: Database, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def busy(*_: Any, **__: Any) -> bool:
        raise UNAVAILABLE[0]("busy", None, Exception("busy"))

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "finish", busy)
        patch.setattr("db.session.PAUSES", (0.01, 0.01))
        row = await carry_out(database, settings, lambda *_: made(tmp_path, reasons=[]), patch)
    assert row.status == "running"
    assert (settings.retrain_work / str(row.id) / "plan.json").exists()
