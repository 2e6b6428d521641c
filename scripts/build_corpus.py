"""Build a corpus that trains: clean every work, drop what is there twice, write a manifest.

python -m scripts.build_corpus FOLDER [--out data/corpus]      # texts, with or without SOURCES.tsv
python -m scripts.build_corpus --download [--out data/corpus]  # from ru.wikisource, resumable

A folder without SOURCES.tsv may hold author/title.txt or title.txt. Held-out works are read
first, so that of two doubles the held-out one stays and nothing of it is left to train on. A build
that fails changes nothing: the files take their places when all are written, manifest.json last.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ml import wikisource
from ml.corpus import (
    COLUMNS,
    CorpusError,
    Work,
    hash_digests,
    load_split,
    read_table,
    read_work,
    split_of,
    text_digest,
)
from ml.duplicates import SAME_WORK, DuplicateIndex
from ml.results import write_text

Row = dict[str, str]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", type=Path, nargs="?", help="a folder of texts")
    source.add_argument("--download", action="store_true", help="fetch the texts of ml/data")
    parser.add_argument("--url", default=wikisource.URL, help="the wiki's api.php")
    parser.add_argument("--pause", type=seconds, default=wikisource.PAUSE, help="seconds a request")
    parser.add_argument("--out", type=Path, default=Path("data/corpus"), help="%(default)s")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if options.download:
            folder = options.out / "raw"
            wikisource.download(folder, url=options.url, pause=options.pause)
        else:
            folder = options.folder
        manifest = build(folder, options.out, shlex.join(["scripts.build_corpus", *words]))
    except (CorpusError, wikisource.WikiError) as error:
        raise SystemExit(str(error)) from None
    for line in report(manifest):
        print(line)


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def build(folder: Path, out: Path, command: str) -> dict[str, Any]:
    """Write the cleaned corpus and return its manifest; raises CorpusError."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise CorpusError(f"{out}: in the folder of the sources, it would be overwritten or reread")
    rows = list_works(folder)
    staging = out / ".part"
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a build that was killed
        manifest = write_all(folder, rows, staging, command)
        remove_stale(out, manifest["works"])
        for file in (*manifest["works"], "SOURCES.tsv", "manifest.json"):
            move(staging / file, out / file)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def write_all(folder: Path, rows: list[Row], out: Path, command: str) -> dict[str, Any]:
    """Write texts, table and manifest into ``out``; return the manifest."""
    split = load_split()
    index = DuplicateIndex()
    kept: dict[str, dict[str, Any]] = {}
    dropped: list[dict[str, Any]] = []
    # A stable sort: held-out works, then the others in the table's order.
    order = sorted(rows, key=lambda row: all(row["file"] not in files for files in split.values()))
    for row in tqdm(order, unit="work", disable=None):
        work = read_work(folder, row)
        text, losses = drop_doubles(work, index)
        dropped += losses
        if text:
            write(out / work.file, text + "\n")
            kept[work.file] = {
                "sha256": hashlib.sha256((text + "\n").encode()).hexdigest(),
                "text_sha256": text_digest(text),
                "characters": len(text),
                "genre": work.genre,
                "split": split_of(work, split),
            }
    table = ["\t".join(COLUMNS)]
    table += ["\t".join(row[name] for name in COLUMNS) for row in rows if row["file"] in kept]
    write(out / "SOURCES.tsv", "\n".join(table) + "\n")
    manifest = {
        "command": command,
        "corpus_sha256": hash_digests({name: kept[name]["text_sha256"] for name in kept}),
        "works": {row["file"]: kept[row["file"]] for row in rows if row["file"] in kept},
        "dropped": dropped,
        "absent": [file for files in split.values() for file in files if file not in kept],
    }
    write(out / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    return manifest


def list_works(folder: Path) -> list[Row]:
    """Return the rows of the folder's table, or rows made from the paths of its texts."""
    if (folder / "SOURCES.tsv").exists():
        return read_table(folder)
    if not folder.is_dir():
        raise CorpusError(f"{folder}: {'not a' if folder.exists() else 'no such'} folder")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.txt") if path.is_file())
    if not files:
        raise CorpusError(f"{folder}: empty: neither SOURCES.tsv nor *.txt in it")
    return [
        {
            "file": file.as_posix(),
            "author": file.parts[0] if len(file.parts) > 1 else folder.resolve().name,
            "title": file.stem,
            "genre": "prose",
        }
        for file in files
    ]


def drop_doubles(work: Work, index: DuplicateIndex) -> tuple[str, list[dict[str, Any]]]:
    """Return the text without what earlier works have, "" if they have it all; and the losses."""
    paragraphs = work.text.split("\n")
    if twin := index.find_twin(work.file, paragraphs):
        reason = {"reason": "the same text", "share": round(twin.share, 3)}
        return "", [loss(work, twin.name, len(work.text)) | reason]
    repeats = index.find_repeats(work.file, paragraphs)
    if sum(repeat.characters for repeat in repeats) >= SAME_WORK * len(work.text):
        reason = {"reason": "all but a rest stands in other works"}
        return "", [loss(work, repeats[0].twin, len(work.text)) | reason]
    for repeat in reversed(repeats):
        del paragraphs[repeat.start : repeat.end]
    losses = [
        loss(work, repeat.twin, repeat.characters)
        | {"reason": "repeated paragraphs", "paragraphs": [repeat.start + 1, repeat.end]}
        for repeat in repeats
    ]
    return "\n".join(paragraphs), losses


def loss(work: Work, twin: str, characters: int) -> dict[str, Any]:
    return {"file": work.file, "twin": twin, "characters": characters}


def remove_stale(out: Path, kept: dict[str, Any]) -> None:
    """Remove the texts of an earlier build that this one does not have."""
    manifest = out / "manifest.json"
    if not manifest.is_file():
        return
    try:
        earlier = json.loads(manifest.read_text("utf-8"))["works"]
    except (ValueError, KeyError) as error:
        raise CorpusError(f"{manifest}: not a manifest of ours: {error}") from error
    for file in set(earlier) - set(kept):
        if (out / file).resolve().is_relative_to(out.resolve()):
            (out / file).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all; a full disk is a CorpusError that names it."""
    try:
        write_text(path, text)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written: {error.strerror}") from error


def move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    except OSError as error:
        raise CorpusError(f"{target}: cannot be written: {error.strerror}") from error


def report(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield what a reader wants to know: what was dropped and why, what is there now."""
    for row in manifest["dropped"]:
        where = " {}-{}".format(*row["paragraphs"]) if "paragraphs" in row else ""
        reason = f"{row['reason']} ({row['twin']}), {row['characters']:,} characters"
        yield f"dropped {row['file']}{where}: {reason}"
    if manifest["absent"]:
        yield f"held out by the split, but not here: {', '.join(manifest['absent'])}"
    works = manifest["works"].values()
    characters = sum(work["characters"] for work in works)
    yield f"{len(works)} works, {characters:,} characters, corpus {manifest['corpus_sha256'][:12]}"


if __name__ == "__main__":
    main()
