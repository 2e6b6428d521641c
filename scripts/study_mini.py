"""Train variants of one recipe at the same compute and compare them: scaling, ablations.

python -m scripts.study_mini CORPUS --study scripts/recipes/scaling.json
    [--work out/scaling] [--out docs/experiments/results/scaling.json]

A study is a ``base`` recipe and ``variants``: name -> what differs. Finished variants are not
trained again; an interrupted one goes on from its checkpoint.
"""

import argparse
from pathlib import Path
from typing import Any

from ml import corpus, experiment, results, texts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--work", type=Path, help="out/ and the study's name without it")
    parser.add_argument("--out", type=Path, help="among the results, by the study's name, without")
    options = parser.parse_args(arguments)
    name = options.study.stem
    work = options.work or Path("out") / name
    runs = []
    try:
        study = texts.read_json(options.study)
        for variant, changes in study["variants"].items():
            recipe = merge(study["base"], changes)
            data = experiment.read_texts(recipe, options.corpus, options.split)
            folder = work / variant.replace(" ", "_")
            trained = experiment.run(recipe, data, folder, samples=False)
            best = min(line["validation"] for line in trained.curve)
            runs.append(
                {
                    "name": variant,
                    "changes": changes,
                    "parameters": trained.parameters,
                    "tokens": trained.tokens,
                    "seconds": trained.seconds,
                    "bits_per_character": best,
                    "curve": trained.curve,
                }
            )
            print(f"{variant}: {best:.4f} bits per character, {trained.seconds:.0f} s", flush=True)
            results.save(  # after each: a study takes hours
                options.out or results.FOLDER / f"{name}.json",
                {"runs": runs},
                command=f"python -m scripts.study_mini CORPUS --study {options.study}",
                seed=study["base"]["seed"],
                config=study,
                data=data.sha256,
            )
    except (corpus.CorpusError, experiment.AnotherRunError) as error:
        raise SystemExit(str(error)) from error


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``: dictionaries are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


if __name__ == "__main__":
    main()
