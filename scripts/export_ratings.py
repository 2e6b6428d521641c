"""Export the readers' votes as data to learn from: JSONL for TRL, and a report.

python -m scripts.export_ratings [--out out/ratings] [--cap 200] [--minimum 1]

Reads the database of DATABASE_URL. unpaired.jsonl has a vote a line (prompt, completion, label,
weight), pairs.jsonl a liked and a disliked completion of the same prompt (prompt, chosen,
rejected). Only votes of readers who consented are in it, and nothing that says who they are. All
files take their places when all are written.
"""

import argparse
import asyncio
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from db import queries
from db.migrate import upgrade
from db.session import DatabaseError, DatabaseSettings, connect
from db.settings import SettingsError
from ml import results, votes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/ratings"), help="%(default)s")
    parser.add_argument("--cap", type=int, default=votes.CAP, help="newest votes a reader")
    parser.add_argument("--minimum", type=int, default=1, help="likes, and dislikes, wanted")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        rows = asyncio.run(read(DatabaseSettings.load().database_url))
        selection = votes.select(
            [votes.vote(**vars(row)) for row in rows], cap=options.cap, minimum=options.minimum
        )
    except (DatabaseError, SettingsError, votes.VotesError) as error:
        raise SystemExit(str(error)) from None
    figures = votes.report(selection)
    try:
        save(options.out, selection, figures, shlex.join(["scripts.export_ratings", *words]))
    except OSError as error:
        raise SystemExit(f"{options.out}: cannot be written: {error.strerror}") from None
    for name, figure in figures.items():
        print(f"{name:10} {figure}")
    print(f"{options.out} written")


async def read(url: str) -> list[queries.RatedStory]:
    """Return every vote in the database; raises DatabaseError."""
    database = connect(url)
    try:
        await upgrade(database)
        async with database.read() as session:
            return list(await queries.rated(session))
    finally:
        await database.close()


def save(out: Path, selection: votes.Selection, figures: dict[str, Any], command: str) -> None:
    """Write the two files and the report, all or none; raises OSError."""
    staging = out / ".part"
    shutil.rmtree(staging, ignore_errors=True)  # of an export that was killed
    try:
        results.write_text(staging / "unpaired.jsonl", as_lines(votes.unpaired(selection.votes)))
        results.write_text(staging / "pairs.jsonl", as_lines(votes.pairs(selection.votes)))
        results.save(staging / "report.json", figures, command=command)
        for file in sorted(staging.iterdir()):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def as_lines(rows: list[votes.Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
