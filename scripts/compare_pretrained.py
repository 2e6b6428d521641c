"""Fine-tune pretrained models of several architectures at the same compute and compare them.

python -m scripts.compare_pretrained --data FILE.jsonl [--data CORPUS]
    [--recipe scripts/recipes/compare_pretrained.json] [--work out/compare_pretrained]
    [--out docs/experiments/results/compare_pretrained.json]

Every model is measured alike: bits per character of held-out continuations, given their openings.
``flops`` of the recipe, 6 x parameters x tokens, is what each may spend. A model that cannot be
loaded gets a row with the reason. Interrupted, the same command goes on; results are written after
each model, the JSON and the same as a Markdown table.
"""

import argparse
from pathlib import Path
from typing import Any

from ml import corpus, results, texts
from ml.finetune import FinetuneConfig, Finetuned, finetune
from ml.finetune_data import Data, read
from ml.finetune_loop import FinetuneError
from ml.pairs import bits_of_continuations, cut


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="DATA")
    parser.add_argument(
        "--recipe", type=Path, default=Path("scripts/recipes/compare_pretrained.json")
    )
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--work", type=Path, default=Path("out/compare_pretrained"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "compare_pretrained.json")
    options = parser.parse_args(arguments)
    try:
        recipe = texts.read_json(options.recipe)
        configs = {name: _config(recipe, model) for name, model in recipe["models"].items()}
        data = read(options.data, recipe, options.split)
    except corpus.CorpusError as error:
        raise SystemExit(str(error)) from error
    except (KeyError, TypeError) as error:
        raise SystemExit(f"{options.recipe}: {error}") from error
    rows: list[dict[str, Any]] = []
    for name, config in configs.items():
        base = recipe["models"][name]["base"]
        try:
            made = finetune(config, base, data.train, data.validation, options.work / name)
            rows.append({"name": name, "base": base, **_measure(made, config, data)})
        except FinetuneError as error:
            rows.append({"name": name, "base": base, "reason": str(error)})
        except OSError as error:
            raise SystemExit(f"{error.filename or options.work}: {error.strerror}") from error
        print(rows[-1], flush=True)
        results.save(
            options.out,
            {"models": rows},
            command="python -m scripts.compare_pretrained "
            + " ".join(f"--data {source}" for source in options.data)
            + results.given(parser, options, "recipe"),
            seed=recipe["seed"],
            config=recipe,
            data=data.sha256,
        )
        results.write_text(options.out.with_suffix(".md"), _table(rows))


def _config(recipe: dict[str, Any], model: dict[str, Any]) -> FinetuneConfig:
    """Return a model's settings: those that all share, and its own."""
    shared = {"seed": recipe["seed"], "flops": recipe["flops"]}
    return FinetuneConfig(**shared, **{**recipe["training"], **model.get("training", {})})


def _measure(made: Finetuned, config: FinetuneConfig, data: Data) -> dict[str, Any]:
    bits = {}
    for part, documents in (("validation", data.validation), ("test", data.test)):
        pairs = cut(documents, opening=config.opening, continuation=config.continuation)
        if pairs:  # stories leave no test
            bits[part] = round(bits_of_continuations(made.model, made.tokenizer, pairs), 4)
    return {
        "encoder_decoder": bool(made.model.config.is_encoder_decoder),
        "parameters": made.parameters,
        "trained_parameters": made.trained_parameters,
        "tokens": made.tokens,
        "epochs": round(made.epochs, 4),
        "flops": made.flops,
        "seconds": round(made.seconds),
        "bits_per_character": bits,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    head = ["model", "parameters", "trained", "epochs", "FLOP", "validation", "test", "remark"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        if "reason" in row:
            lines.append([row["name"], *["–"] * (len(head) - 2), row["reason"].replace("|", "/")])
            continue
        bits = row["bits_per_character"]
        figures = [f"{bits[part]:.3f}" if part in bits else "–" for part in ("validation", "test")]
        counts = [f"{row[key]:,}" for key in ("parameters", "trained_parameters")]
        kind = "encoder-decoder" if row["encoder_decoder"] else ""
        spent = [f"{row['epochs']:g}", f"{row['flops']:.2e}"]
        lines.append([row["name"], *counts, *spent, *figures, kind])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
