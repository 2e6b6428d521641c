"""Show why the first random search failed: its pooling and its metric beside a sound model.

python -m scripts.autopsy CORPUS [--author pushkin] [--steps 300]
                          [--out docs/experiments/results/autopsy.json]

Trains both models on the author's prose and measures them on the validation works; two to three
minutes on one core. ``ml/autopsy.py`` explains what the figures mean.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from ml import corpus
from ml.autopsy import AutopsyConfig, dissect
from ml.dataset import pack
from ml.results import FOLDER, save
from ml.tokenizer import train

VOCABULARY = 1410  # the first project's choice


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--author", default="pushkin", help="folder of the works to train on")
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--length", type=int, default=AutopsyConfig.length)
    parser.add_argument("--steps", type=int, default=AutopsyConfig.steps)
    parser.add_argument("--out", type=Path, default=FOLDER / "autopsy.json")
    options = parser.parse_args(arguments)
    config = AutopsyConfig(steps=options.steps, length=options.length)

    try:
        works = [work for work in corpus.read_works(options.corpus) if work.genre in corpus.PROSE]
    except corpus.CorpusError as error:
        raise SystemExit(str(error)) from error
    split = corpus.load_split(options.split)
    texts: dict[str, list[str]] = {"train": [], "validation": []}
    for work in works:
        part = corpus.split_of(work, split)
        if part == "validation" or (part == "train" and work.folder == options.author):
            texts[part] += corpus.chapters(work)
    for part, documents in texts.items():
        if not documents:
            raise SystemExit(f"{options.corpus}: no prose of {options.author} for {part}")

    tokenizer = train(texts["train"], options.vocabulary)
    streams = {part: pack(documents, tokenizer) for part, documents in texts.items()}
    for part, stream in streams.items():
        if len(stream) <= options.length:
            raise SystemExit(f"{options.corpus}: {len(stream)} tokens for {part} are too few")
    figures = dissect(streams["train"], streams["validation"], len(tokenizer), config)
    save(
        options.out,
        {**figures, "training_tokens": len(streams["train"])},
        command=f"python -m scripts.autopsy CORPUS --author {options.author}"
        f" --vocabulary {options.vocabulary} --length {config.length} --steps {config.steps}",
        seed=config.seed,
        config=asdict(config),
        data=corpus.corpus_hash(works),
    )
    print(f"unigram: {figures['unigram']:.3f} nats, metric {figures['unigram_seed_metric']:,.0f}")
    for name, curve in figures["curves"].items():
        for point in (curve[0], curve[-1]):
            print(
                f"{name}, step {point['step']}: {point['cross_entropy']:.3f} nats, "
                f"perplexity {point['perplexity']:,.0f}, metric {point['seed_metric']:,.0f}"
            )
    print(options.out)


if __name__ == "__main__":
    main()
