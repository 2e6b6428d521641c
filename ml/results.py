"""A result on disk: the figures of one run beside what is needed to repeat it.

save(Path("docs/experiments/results/scaling.json"), figures, command="python -m scripts.x CORPUS",
     seed=1799, config={...}, data=corpus_hash(works))
"""

import argparse
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path("docs/experiments/results")


def save(
    path: Path,
    figures: Mapping[str, Any],
    *,
    command: str,
    seed: int | None = None,
    config: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> None:
    """Write ``figures`` and their origin as JSON, whole or not at all.

    ``data`` is the corpus's hash (``corpus.corpus_hash``), ``config`` whatever settings shaped the
    run. The commit is read from the checkout; None outside one.
    """
    origin = {
        "command": command,
        "commit": commit(),
        "seed": seed,
        "data_sha256": data,
        "config": dict(config or {}),
    }
    write_text(path, json.dumps({**origin, **figures}, ensure_ascii=False, indent=1) + "\n")


def given(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str) -> str:
    """Return those of the options that differ from their defaults, as a command would give them.

    >>> given(parser, parser.parse_args(["CORPUS", "--steps", "4"]), "steps", "rounds")
    ' --steps 4'
    """
    words = ""
    for name in names:
        value = getattr(options, name)
        if value != parser.get_default(name):
            flag = f" --{name.replace('_', '-')}"
            if isinstance(value, list):
                value = " ".join(map(str, value))
            words += flag if value is True else f"{flag} {value}"
    return words


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a full disk leaves the old one untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def commit() -> str | None:
    """Return the commit this code stands at, or None outside a git checkout."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return None
    return run.stdout.strip() or None
