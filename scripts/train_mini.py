"""Train the bundled model from a corpus folder and write it where the worker can load it.

python -m scripts.train_mini CORPUS [--recipe scripts/recipes/pushkin_mini.json] [--work out/mini]
                             [--out ml/pretrained/pushkin-mini]

Interrupted, the same command goes on from the last checkpoint in the work folder.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from ml import corpus
from ml.checkpoint import export
from ml.dataset import Mixture, Stage, pack
from ml.evaluate import bits_per_character
from ml.gpt import gpt_config, new_gpt
from ml.tokenizer import train as train_tokenizer
from ml.training import TrainingConfig, train


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/pushkin_mini.json"))
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument("--out", type=Path, default=Path("ml/pretrained/pushkin-mini"))
    options = parser.parse_args(arguments)
    recipe = json.loads(options.recipe.read_text("utf-8"))

    works = [
        work
        for work in corpus.read_works(options.corpus)
        if work.genre in corpus.PROSE and work.file not in recipe["leave_out"]
    ]
    split = corpus.load_split(options.split)
    identity = {**recipe, "corpus_sha256": corpus.corpus_hash(works), "held_out": split}
    _claim(options.work, identity)
    documents: dict[str, list[str]] = {name: [] for name in recipe["groups"]}
    held_out: dict[str, list[str]] = {"validation": [], "test": []}
    for work in works:
        part = corpus.split_of(work, split)
        if part == "train":
            group = next(
                name for name, folders in recipe["groups"].items() if work.folder in folders
            )
            documents[group] += corpus.chapters(work)
        else:
            held_out[part] += corpus.chapters(work)

    tokenizer = train_tokenizer(
        (text for group in documents.values() for text in group), recipe["vocabulary"]
    )
    streams = {name: pack(texts, tokenizer) for name, texts in documents.items()}
    for name, texts in documents.items():
        print(f"{name}: {sum(map(len, texts)):,} characters, {len(streams[name]):,} tokens")

    config = TrainingConfig(**recipe["training"], seed=recipe["seed"])
    shape = recipe["model"]
    model = new_gpt(gpt_config(vocabulary=len(tokenizer), **shape), recipe["seed"])
    mixture = Mixture(
        streams,
        [Stage(**stage) for stage in recipe["stages"]],
        steps=config.steps,
        batch=config.batch,
        length=config.length,
        seed=recipe["seed"],
    )

    def measure(texts: list[str]) -> float:
        return bits_per_character(model, tokenizer, texts, context=shape["context"])

    train(model, mixture, config, options.work, lambda _: measure(held_out["validation"]))
    model.bfloat16()  # as it ships, and so as it is measured
    figures = {name: round(measure(texts), 4) for name, texts in held_out.items()}
    meta = {
        **identity,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_seen": config.steps * config.batch * config.length,
        "bits_per_character": figures,
        "commit": _commit(),
        "command": "python -m scripts.train_mini CORPUS",
    }
    export(model, tokenizer, meta, options.out)
    print(f"{options.out}: {figures} bits per character")


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Mark the work folder as this run's, or end if a run of other texts stands there."""
    mark = folder / "run.json"
    if mark.exists() and json.loads(mark.read_text("utf-8")) != identity:
        raise SystemExit(f"{mark} is another run's: name another --work or delete {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(identity, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _commit() -> str | None:
    """Return the commit this code stands at, or None outside a git checkout."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return None
    return run.stdout.strip() or None


if __name__ == "__main__":
    main()
