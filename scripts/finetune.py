"""Fine-tune a pretrained model on stories and works, and write it where the worker can load it.

python -m scripts.finetune --data FILE.jsonl [--data CORPUS] --out out/pushkin
    [--base ai-forever/rugpt3medium_based_on_gpt2] [--recipe scripts/recipes/finetune.json]
    [--work out/finetune]

Settings stand in the recipe. Interrupted, the same command goes on from the last checkpoint of the
work folder, which holds metrics.jsonl and TensorBoard's files too. Several GPUs or machines:
accelerate launch [--multi_gpu …] -m scripts.finetune … with the same words.
"""

import argparse
from pathlib import Path

from ml import results, texts
from ml.corpus import SPLIT_FILE, CorpusError
from ml.finetune import FinetuneConfig, finetune, measure, save
from ml.finetune_data import Data, read
from ml.finetune_loop import FinetuneError

BASE = "ai-forever/rugpt3medium_based_on_gpt2"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=BASE, help="a folder or a name on the hub; %(default)s")
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="DATA")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/finetune.json"))
    parser.add_argument("--split", type=Path, default=SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/finetune"))
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    options = parser.parse_args(arguments)
    try:
        config, data = _read(options)
        print(
            f"{len(data.train)} texts to learn, {len(data.validation)} to validate by", flush=True
        )
        made = finetune(config, options.base, data.train, data.validation, options.work)
        if not made.main:
            return
        figures = {"validation": made.bits_per_character}
        if data.test:  # stories leave none
            figures["test"] = measure(made, config, data.test)
        meta = {
            "name": options.out.name,
            "parameters": made.parameters,
            "trained_parameters": made.trained_parameters,
            "tokens_seen": made.tokens,
            "epochs": made.epochs,
            "seconds": round(made.seconds),
            "bits_per_character": figures,
            "commit": results.commit(),
            "command": f"python -m scripts.finetune --base {options.base} "
            + " ".join(f"--data {source}" for source in options.data)
            + f" --recipe {options.recipe} --out {options.out}",
        }
        save(made, options.out, meta)
    except (CorpusError, FinetuneError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(f"{error.filename or options.work}: {error.strerror}") from error
    print(f"{options.out}: {figures} bits per character after {made.epochs:g} epochs")


def _read(options: argparse.Namespace) -> tuple[FinetuneConfig, Data]:
    recipe = texts.read_json(options.recipe)
    try:
        config = FinetuneConfig(seed=recipe["seed"], **recipe["training"])
        return config, read(options.data, recipe, options.split)
    except (KeyError, TypeError) as error:
        raise CorpusError(f"{options.recipe}: {error}") from error


if __name__ == "__main__":
    main()
