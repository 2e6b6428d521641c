"""Fine-tune one base for fewer and for more passes, and see where over-training begins.

python -m scripts.study_finetune CORPUS --base out/century/model
    [--recipe scripts/recipes/study_finetune.json] [--work out/study_finetune]
    [--out docs/experiments/results/finetuning.json]

Bits per character of the held-out works before, after each quarter of a pass and, with the best
weights, on the test works. Interrupted, the same command goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ml import results, texts
from ml.corpus import SPLIT_FILE, CorpusError
from ml.finetune import FinetuneConfig, finetune, measure
from ml.finetune_data import Data, read
from ml.finetune_loop import FinetuneError


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--base", required=True, help="a folder or a name on the hub")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/study_finetune.json"))
    parser.add_argument("--split", type=Path, default=SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/study_finetune"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "finetuning.json")
    options = parser.parse_args(arguments)
    runs = []
    try:
        recipe = texts.read_json(options.recipe)
        data = read([options.corpus], recipe, options.split)
        for name, changes in recipe["runs"].items():
            config = FinetuneConfig(seed=recipe["seed"], **{**recipe["training"], **changes})
            runs.append(_run(name, config, options.base, data, options.work))
            print(_line(runs[-1]), flush=True)
            results.save(
                options.out,
                {"runs": runs},
                command=f"python -m scripts.study_finetune CORPUS --base {options.base}",
                seed=recipe["seed"],
                config=recipe,
                data=data.sha256,
            )
    except (CorpusError, FinetuneError) as error:
        raise SystemExit(str(error)) from error
    except (KeyError, TypeError) as error:
        raise SystemExit(f"{options.recipe}: {error}") from error


def _run(name: str, config: FinetuneConfig, base: str, data: Data, work: Path) -> dict[str, Any]:
    folder = work / "".join(letter if letter.isalnum() else "_" for letter in name)
    made = finetune(config, base, data.train, data.validation, folder)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return {
        "name": name,
        "passes": made.epochs,
        "tokens": made.tokens,
        "seconds": made.seconds,
        "validation": made.bits_per_character,
        "test": measure(made, config, data.test),
        "curve": list(lines),
    }


def _line(run: dict[str, Any]) -> str:
    """Say what a run came to: before, at its best and where that was, at its end."""
    measured = [line for line in run["curve"] if "validation" in line]
    best = min(measured, key=lambda line: line["validation"])
    return (
        f"{run['name']}: {measured[0]['validation']:.3f} before, {best['validation']:.3f} at best "
        f"after {best['epoch']:g} passes, {measured[-1]['validation']:.3f} at the end; "
        f"test {run['test']:.3f}"
    )


if __name__ == "__main__":
    main()
