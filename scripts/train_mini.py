"""Train the bundled model from a corpus folder and write it where the worker can load it.

python -m scripts.train_mini CORPUS [--recipe scripts/recipes/pushkin_mini.json] [--work out/mini]
    [--out ml/pretrained/pushkin-mini] [--result docs/experiments/results/mini_runs.json]

A recipe with ``start`` goes on from the model in that folder. Interrupted, the same command goes on
from the last checkpoint in the work folder.
"""

import argparse
import resource
from pathlib import Path
from typing import Any

from ml import corpus, experiment, results, texts
from ml.checkpoint import export


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/pushkin_mini.json"))
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument("--out", type=Path, default=Path("ml/pretrained/pushkin-mini"))
    parser.add_argument("--result", type=Path, help="write the curves of all its stages there")
    options = parser.parse_args(arguments)
    try:
        recipe = texts.read_json(options.recipe)
        data = experiment.read_texts(recipe, options.corpus, options.split)
        for name, documents in data.train.items():
            print(f"{name}: {len(documents)} texts, {sum(map(len, documents)):,} characters")
        trained = experiment.run(recipe, data, options.work)
    except (corpus.CorpusError, experiment.AnotherRunError) as error:
        raise SystemExit(str(error)) from error

    trained.model.bfloat16()  # as it ships, and so as it is measured
    parts = {"validation": data.validation, "test": data.test}
    figures = {name: round(trained.measure(works), 4) for name, works in parts.items()}
    before = trained.identity.get("started_from", {})
    meta = {
        **trained.identity,
        "parameters": trained.parameters,
        "tokens_seen": before.get("tokens_seen", 0) + trained.tokens,
        "seconds": round(before.get("seconds", 0) + trained.seconds),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
        "bits_per_character": figures,
        "curve": [{k: v for k, v in line.items() if k != "sample"} for line in trained.curve],
        "commit": results.commit(),
        "command": f"python -m scripts.train_mini CORPUS --recipe {options.recipe}",
    }
    export(trained.model, trained.tokenizer, meta, options.out)
    if options.result:
        results.save(
            options.result,
            {"runs": _stages(meta)},
            command=meta["command"],
            seed=recipe["seed"],
            config=recipe,
            data=data.sha256,
        )
    print(f"{options.out}: {figures} bits per character")


def _stages(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the run and those it started from, the oldest first, by tokens seen in all."""
    before = meta.get("started_from")
    earlier = _stages(before) if before else []
    if "curve" not in meta:  # made before curves were kept
        return earlier
    seen = before["tokens_seen"] if before else 0
    curve = [{**line, "tokens": line["tokens"] + seen} for line in meta["curve"]]
    return [*earlier, {"name": _label(meta), "curve": curve, **meta["bits_per_character"]}]


def _label(meta: dict[str, Any]) -> str:
    """Return the recipe that a stage was trained by, and the models it was averaged from."""
    if "averaged" in meta:  # its curve is the last one's
        return "mean of " + " and ".join(Path(folder).parent.name for folder in meta["averaged"])
    recipe = Path(meta["command"].split("--recipe ")[-1])
    return recipe.stem if recipe.suffix else str(meta["name"])


if __name__ == "__main__":
    main()
