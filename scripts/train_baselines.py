"""Train the models of chapters 1 to 3 on one text and measure them on the same held-out works.

python -m scripts.train_baselines CORPUS [NAME …] [--recipe scripts/recipes/baselines.json]
    [--work out/baselines] [--mini ml/pretrained/pushkin-mini]
    [--out docs/experiments/results/baselines.json]

Writes a row for every model in the work folder, of whatever recipe. Each model trains in a process
of its own, so that its peak memory is its own; a model that has its result in the work folder is
not trained again, an interrupted one goes on from its checkpoint.
"""

import argparse
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ml import results, texts, tokenizer
from ml.baselines import build
from ml.corpus import SPLIT_FILE, CorpusError
from ml.dataset import Mixture, Stage, pack
from ml.evaluate import bits_per_character
from ml.generation import write
from ml.ngram import NGram
from ml.training import TrainingConfig, thin, train

_OPENING = "В начале осени"  # of the samples that a training run prints


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("names", nargs="*", help="models of the recipe; all without it")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/baselines.json"))
    parser.add_argument("--split", type=Path, default=SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/baselines"))
    parser.add_argument("--mini", type=Path, help="add the row of this model folder")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "baselines.json")
    options = parser.parse_args(arguments)
    try:
        recipe = texts.read_json(options.recipe)
        unknown = set(options.names) - set(recipe["models"])
        if unknown:
            raise SystemExit(f"{options.recipe} has no {', '.join(sorted(unknown))}")
        data = texts.load(options.corpus, recipe["groups"], recipe["leave_out"], options.split)
        mini = [_read_mini(options.mini)] if options.mini else []
    except CorpusError as error:
        raise SystemExit(str(error)) from error

    for name in options.names or recipe["models"]:
        spec = {**recipe["models"][name], "seed": recipe["seed"], "data_sha256": data.sha256}
        spec["tokenizer"] = recipe["tokenizers"][spec["tokenizer"]]
        if "family" in spec:
            spec["training"] = {**recipe["training"], **spec["training"]}
        # A fresh process each: ru_maxrss never falls.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                row = pool.submit(measure, name, spec, data, options.work).result()
            except CorpusError as error:
                raise SystemExit(f"{name}: {error}") from error
        figures = row["bits_per_character"]
        print(f"{name}: {figures} bits per character, {row['minutes']:.1f} min", flush=True)
    rows = [json.loads(f.read_text("utf-8")) for f in sorted(options.work.glob("*/result.json"))]
    rows = [row for row in rows if row["spec"]["data_sha256"] == data.sha256]
    results.save(
        options.out,
        {"models": rows + mini},
        command="python -m scripts.train_baselines CORPUS",
        seed=recipe["seed"],
        config=recipe,
        data=data.sha256,
    )


def measure(name: str, spec: dict[str, Any], data: texts.Texts, work: Path) -> dict[str, Any]:
    """Train one model, unless its result is there already, and return its row of the table."""
    folder = _folder(work, name)
    file = folder / "result.json"
    if file.exists():
        row: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if row["spec"] == spec:
            return row
        raise SystemExit(f"{file} is of another recipe or corpus: delete {folder}")
    kind = spec["tokenizer"]
    codec = tokenizer.train(data.everything(), **kind)
    codec.save_pretrained(folder / "tokenizer")
    started = time.monotonic()
    curve: list[dict[str, Any]] = []
    sample = ""
    if "order" in spec:
        model: Any = NGram(spec["order"], len(codec), spec.get("smoothing", "witten-bell"))
        model.fit(pack(data.everything(), codec))
        model.save(folder / "ngram.npz")
        context = 512
        parameters, seconds = model.entries(), time.monotonic() - started
    else:
        context = spec["context"]
        model = build(spec["family"], len(codec), seed=spec["seed"], **spec["shape"])
        curve, sample = _train(model, codec, spec, data, folder)
        parameters = sum(p.numel() for p in model.parameters())
        seconds = curve[-1]["seconds"]
    row = {
        "name": name,
        "kind": "ngram" if "order" in spec else kind["kind"],
        "tokenizer": kind,
        "context": context,
        "parameters": parameters,
        "minutes": seconds / 60,
        "bits_per_character": {
            part: round(bits_per_character(model, codec, documents, context=context), 4)
            for part, documents in (("validation", data.validation), ("test", data.test))
        },
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "characters_per_token": sum(map(len, data.test)) / len(pack(data.test, codec)),
        "sample": sample,
        "curve": curve,
        "spec": spec,
    }
    results.write_text(file, json.dumps(row, ensure_ascii=False) + "\n")
    return row


def _train(
    model: Any,
    codec: PreTrainedTokenizerFast,
    spec: dict[str, Any],
    data: texts.Texts,
    folder: Path,
) -> tuple[list[dict[str, Any]], str]:
    """Train by the one loop; return its metrics, thinned to the validations, and a sample."""
    config = TrainingConfig(**spec["training"], seed=spec["seed"])
    streams = {name: pack(group, codec) for name, group in data.train.items()}
    mixture = Mixture(
        streams,
        [Stage(1.0, {name: float(len(stream)) for name, stream in streams.items()})],
        steps=config.steps,
        batch=config.batch,
        length=config.length,
        seed=spec["seed"],
    )
    context = spec["context"]

    def validate(model: Any) -> float:
        return bits_per_character(model, codec, data.validation, context=context)

    def sample(model: Any) -> str:
        return write(model, codec, _OPENING, tokens=60, context=context, seed=spec["seed"])

    train(model, mixture, config, folder, validate, sample=sample)
    curve = thin(folder / "metrics.jsonl")
    return curve, curve[-1]["sample"]


def _read_mini(folder: Path) -> dict[str, Any]:
    """Return the row of a model that scripts.train_mini made, from its meta.json."""
    meta = texts.read_json(folder / "meta.json")
    return {
        "name": meta["name"],
        "kind": "gpt",
        "parameters": meta["parameters"],
        "minutes": meta["seconds"] / 60,
        "bits_per_character": meta["bits_per_character"],
        "peak_memory_mb": meta["peak_memory_mb"],
        "curve": meta["curve"],
    }


def _folder(work: Path, name: str) -> Path:
    return work / name.translate(str.maketrans(" ", "_", "(),"))


if __name__ == "__main__":
    main()
