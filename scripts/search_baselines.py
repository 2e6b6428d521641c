"""Search the shapes of chapter 3's four families, in the seed's ranges and in sane ones.

python -m scripts.search_baselines CORPUS [--recipe scripts/recipes/search.json]
    [--work out/search] [--out docs/experiments/results/search.json]

Prints a line a trial. Killed, the same command goes on with the next trial. The best trial of each
family is written to WORK/best.json, a recipe that scripts.train_baselines trains in full.
"""

import argparse
import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ml import results, texts, tokenizer
from ml.baselines import build
from ml.corpus import SPLIT_FILE, CorpusError
from ml.dataset import Mixture, Stage, pack
from ml.evaluate import bits_per_character
from ml.ngram import NGram
from ml.search import Pruned, Range, Report, search
from ml.training import TrainingConfig, train


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/search.json"))
    parser.add_argument("--split", type=Path, default=SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/search"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "search.json")
    options = parser.parse_args(arguments)
    try:
        recipe = texts.read_json(options.recipe)
        data = texts.load(options.corpus, recipe["groups"], recipe["leave_out"], options.split)
    except CorpusError as error:
        raise SystemExit(str(error)) from error
    codec = tokenizer.train(data.everything(), **recipe["tokenizer"])
    lines: list[dict[str, Any]] = []
    best: dict[str, dict[str, Any]] = {}
    for family, fixed in recipe["families"].items():
        for name, limits in recipe["ranges"].items():
            space = {**limits, **recipe["only"].get(family, {})}
            # The corpus's hash in the name: the trials of another corpus are another search.
            study = f"{family} {name} {data.sha256[:12]}"
            objective = Objective(study, fixed, recipe, data, codec, options.work)
            trials = search(
                study,
                {key: Range(**limit) for key, limit in space.items()},
                objective,
                trials=recipe["trials"],
                journal=options.work / "journal.log",
                seed=recipe["seed"],
            )
            for trial in trials:
                run = _read_run(objective.folder(trial.number))
                line = {"family": family, "ranges": name, **asdict(trial), **run}
                line["params"] = line.pop("settings")
                line["bits_per_character"] = line.pop("figure")
                del line["reported"]
                lines.append(line)
                figure = line["bits_per_character"]
                if figure and figure < best.get(family, line)["bits_per_character"] + 1e-9:
                    best[family] = line
    _write_best(best, recipe, options.work / "best.json")
    trigram = NGram(3, len(codec)).fit(pack(data.everything(), codec))
    results.save(
        options.out,
        {
            "trials": lines,
            "trigram_bits_per_character": bits_per_character(
                trigram, codec, data.validation, context=recipe["context"]
            ),
        },
        command="python -m scripts.search_baselines CORPUS",
        seed=recipe["seed"],
        config=recipe,
        data=data.sha256,
    )
    for family, line in best.items():
        print(f"best {family}: {line['bits_per_character']:.4f} {line['params']}")


class Objective:
    """Trains the model that a trial asks for; its metrics stay in a folder of their own."""

    def __init__(
        self,
        study: str,
        fixed: dict[str, str],
        recipe: dict[str, Any],
        data: texts.Texts,
        codec: PreTrainedTokenizerFast,
        work: Path,
    ) -> None:
        self._study, self._fixed, self._recipe = study, fixed, recipe
        self._data, self._codec, self._work = data, codec, work
        self._stream = pack(data.everything(), codec)

    def folder(self, number: int) -> Path:
        return self._work / self._study.replace(" ", "_") / str(number)

    def __call__(self, number: int, settings: dict[str, Any], report: Report) -> float:
        recipe, shape = self._recipe, {**self._fixed, **settings}
        config = TrainingConfig(
            **recipe["training"], adam_rate=shape.pop("adam_rate"), seed=recipe["seed"]
        )
        model = build(vocabulary=len(self._codec), seed=recipe["seed"], **shape)
        mixture = Mixture(
            {"all": self._stream},
            [Stage(1.0, {"all": 1.0})],
            steps=config.steps,
            batch=config.batch,
            length=config.length,
            seed=recipe["seed"],
        )
        folder = self.folder(number)
        shutil.rmtree(folder, ignore_errors=True)  # of a trial that was cut off
        validations: list[int] = []

        def validate(model: Any) -> float:
            documents, context = self._data.validation, recipe["context"]
            figure = bits_per_character(model, self._codec, documents, context=context)
            validations.append(min(config.steps, (len(validations) + 1) * config.validate_every))
            (folder / "model.json").write_text(
                json.dumps({"parameters": sum(p.numel() for p in model.parameters())})
            )
            print(f"{self._study} {number} step {validations[-1]}: {figure:.4f} {settings}")
            report(validations[-1], figure)
            if not math.isfinite(figure):
                raise Pruned  # it diverged; as a failure it would be drawn again for ever
            return figure

        try:
            return train(model, mixture, config, folder, validate)
        finally:
            for weights in folder.glob("*.pt"):
                weights.unlink()  # the figures are what a trial leaves


def _read_run(folder: Path) -> dict[str, Any]:
    """Return a trial's parameters, seconds and curve, as far as it came."""
    if not (folder / "model.json").exists():
        return {"parameters": 0, "seconds": 0.0, "curve": []}
    with (folder / "metrics.jsonl").open(encoding="utf-8") as metrics:
        lines = [json.loads(line) for line in metrics]
    every = max(1, len(lines) // 12)
    curve = [
        {"step": line["step"], "loss": line["loss"], "validation": line.get("validation")}
        for line in lines
        if line["step"] % every == 0 or "validation" in line
    ]
    model = json.loads((folder / "model.json").read_text("utf-8"))
    return {**model, "seconds": lines[-1]["seconds"] if lines else 0.0, "curve": curve}


def _write_best(best: dict[str, dict[str, Any]], recipe: dict[str, Any], file: Path) -> None:
    """Write the winners as a recipe of scripts.train_baselines."""
    models = {}
    for family, line in best.items():
        shape = {**recipe["families"][family], **line["params"]}
        rate, kind = shape.pop("adam_rate"), shape.pop("family")
        models[f"{family} (best of the search)"] = {
            "tokenizer": "bpe",
            "family": kind,
            "context": recipe["context"],
            "shape": shape,
            "training": {**recipe["best"], "adam_rate": rate},
        }
    shared = {key: recipe[key] for key in ("seed", "groups", "leave_out")}
    names = ("weight_decay", "warmup", "decay", "clip", "precision", "compile")
    shared["training"] = {key: recipe["training"][key] for key in names}
    shared |= {"tokenizers": {"bpe": recipe["tokenizer"]}, "models": models}
    results.write_text(file, json.dumps(shared, ensure_ascii=False, indent=2) + "\n")


if __name__ == "__main__":
    main()
