"""Train a tokenizer, or compare vocabulary sizes by the seed's criterion and by the fair one.

python -m scripts.train_tokenizer CORPUS --out FOLDER [--kind bpe] [--vocabulary 8192]
python -m scripts.train_tokenizer CORPUS --sweep [--recipe scripts/recipes/tokenizer_sweep.json]
    [--work out/sweep] [--result docs/experiments/results/tokenizer_sweep.json]

The seed's criterion is the share of tokens that occur at least k times in the corpus; the fair one
is bits per character of one small model that trains for the same compute at each size.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from ml import experiment, results, texts, tokenizer
from ml.corpus import SPLIT_FILE, CorpusError


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--recipe", type=Path, default=Path("scripts/recipes/tokenizer_sweep.json"))
    parser.add_argument("--split", type=Path, default=SPLIT_FILE)
    parser.add_argument("--kind", choices=tokenizer.KINDS, default="bpe")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--out", type=Path, help="where to save the tokenizer")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("out/sweep"))
    parser.add_argument("--result", type=Path, default=results.FOLDER / "tokenizer_sweep.json")
    options = parser.parse_args(arguments)
    if not options.sweep and not options.out:
        parser.error("name the folder to save to (--out), or --sweep")
    try:
        study = texts.read_json(options.recipe)
        data = experiment.read_texts(study["base"], options.corpus, options.split)
        if options.out:
            trained = tokenizer.train(data.everything(), options.vocabulary, options.kind)
            trained.save_pretrained(options.out)
            print(f"{options.out}: {len(trained)} tokens")
        if options.sweep:
            rows = [sweep(study, size, data, options.work) for size in study["sizes"]]
            results.save(
                options.result,
                {"thresholds": study["thresholds"], "rows": rows},
                command="python -m scripts.train_tokenizer CORPUS --sweep",
                seed=study["base"]["seed"],
                config=study,
                data=data.sha256,
            )
    except (CorpusError, experiment.AnotherRunError) as error:
        raise SystemExit(str(error)) from error


def sweep(study: dict[str, Any], size: int, data: Any, work: Path) -> dict[str, Any]:
    """Return one size's row: both criteria, and what a token is worth."""
    recipe = {**study["base"], "vocabulary": size}
    trained = experiment.run(recipe, data, work / str(size), samples=False)
    documents = data.everything()
    ids: Counter[int] = Counter()
    for document in documents:
        ids.update(trained.tokenizer.encode(document))
    row = {
        "vocabulary": size,
        "share": {
            str(k): sum(times >= k for times in ids.values()) / size for k in study["thresholds"]
        },
        "characters_per_token": sum(map(len, documents)) / sum(ids.values()),
        "bits_per_character": min(line["validation"] for line in trained.curve),
        "parameters": trained.parameters,
        "tokens": trained.tokens,
        "seconds": trained.seconds,
    }
    print(f"{size}: {row['bits_per_character']:.4f} bits per character, {row['share']}", flush=True)
    return row


if __name__ == "__main__":
    main()
