"""The export writes what may be learned from, all files or none, and nothing that names anybody."""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from db import queries
from db.migrate import upgrade
from db.session import connect
from ml import results
from scripts import export_ratings
from tests.db_helpers import OWNER, STRANGER, add_story, add_user, set_job

FILES = {"unpaired.jsonl", "pairs.jsonl", "report.json"}


@pytest.fixture(autouse=True)
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the database that the program reads."""
    url = f"sqlite+aiosqlite:///{tmp_path}/data/test.db"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)  # away from the checkout's .env
    return url


def fill(url: str, votes: list[tuple[int, str, str, int]], consents: dict[int, bool]) -> None:
    """Store votes (reader, opening, text, value) and who consented."""

    async def act() -> None:
        database = connect(url)
        await upgrade(database)
        for user_id, prompt, text, value in votes:
            job_id, (generation_id,) = await add_story(database, user_id=user_id, texts=(text,))
            await set_job(database, job_id, prompt=prompt)
            async with database.write() as session:
                await queries.rate(session, generation_id, user_id, value)
        for user_id, consent in consents.items():
            await add_user(database, user_id)
            async with database.write() as session:
                await queries.set_consent(session, user_id, consent)
        await database.close()

    asyncio.run(act())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


VOTES = [
    (OWNER, "Зимой", " выпал снег и замёл все дороги к усадьбе.", 1),
    (OWNER, "Зимой", " было холодно, и больше ничего не случилось.", -1),
    (OWNER, "Весной", " грачи прилетели в старый парк над рекою.", 1),
    (STRANGER, "Летом", " поручик ехал в отпуск к своей тётушке.", -1),
]


def test_export_has_the_votes_of_those_who_consented(url: str, tmp_path: Path) -> None:
    fill(url, VOTES, {OWNER: True})
    export_ratings.main(["--out", str(tmp_path / "ratings")])
    out = tmp_path / "ratings"
    assert {path.name for path in out.iterdir()} == FILES
    rows = lines(out / "unpaired.jsonl")
    assert {(row["prompt"], row["completion"], row["label"]) for row in rows} == {
        (prompt, text, value > 0) for user_id, prompt, text, value in VOTES if user_id == OWNER
    }
    assert sum(row["weight"] for row in rows if row["label"]) == pytest.approx(1.5)
    assert lines(out / "pairs.jsonl") == [
        {"prompt": "Зимой", "chosen": VOTES[0][2], "rejected": VOTES[1][2]}
    ]
    figures = json.loads((out / "report.json").read_text("utf-8"))
    assert (figures["votes"], figures["users"], figures["dropped"]["consent"]) == (3, 1, 1)
    assert figures["command"] == f"scripts.export_ratings --out {out}"
    for path in out.iterdir():
        assert str(OWNER) not in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("votes", "consents", "words"),
    [
        ([], {}, "0 likes and 0 dislikes count, 1 of each are wanted, 2 are missing"),
        (VOTES[::2], {OWNER: True}, "2 likes and 0 dislikes"),
        (VOTES, {OWNER: False}, "0 likes and 0 dislikes"),
    ],
)
def test_too_few_votes_are_one_line_and_no_file(
    url: str,
    tmp_path: Path,
    votes: list[tuple[int, str, str, int]],
    consents: dict[int, bool],
    words: str,
) -> None:
    fill(url, votes, consents)
    with pytest.raises(SystemExit, match=words):
        export_ratings.main(["--out", str(tmp_path / "ratings")])
    assert not (tmp_path / "ratings").exists()


def test_full_disk_leaves_the_earlier_export_whole(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url, VOTES, {OWNER: True})
    out = tmp_path / "ratings"
    export_ratings.main(["--out", str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    fill(url, [], {STRANGER: True})
    write_text = results.write_text

    def write(path: Path, text: str) -> None:
        if path.name == "report.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    monkeypatch.setattr(results, "write_text", write)
    with pytest.raises(SystemExit, match=f"{out}: cannot be written: No space left"):
        export_ratings.main(["--out", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_database_that_does_not_open_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://reader@127.0.0.1:9/x")  # nobody
    with pytest.raises(SystemExit, match="cannot open"):
        export_ratings.main(["--out", str(tmp_path / "ratings")])
