"""Count words, lemmas and tokens in Pushkin's prose and in a second corpus, on equal samples.

python -m scripts.count_words CORPUS [--texts ml/data/sample_stories.jsonl] [--kept FILE]
                              [--out docs/experiments/results/frequency.json]

--texts is JSONL with "text" in each line, --kept those of its lines that the filter let through.
"""

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ml import corpus, frequency, results
from ml.texts import read_stories

PUSHKIN = "Pushkin"
# The first project's figures (pymystem3; its Pushkin stood in the corpus twice, sizes unmatched).
SEED_FIGURES = {
    PUSHKIN: {
        "words": {"distinct": 99_431, "share_frequent": 0.1288},
        "lemmas": {"distinct": 54_548, "share_frequent": 0.1725},
    },
    "synthetic": {
        "words": {"distinct": 109_282, "share_frequent": 0.1709},
        "lemmas": {"distinct": 33_464, "share_frequent": 0.2607},
    },
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--texts", type=Path, default=Path("ml/data/sample_stories.jsonl"))
    parser.add_argument("--kept", type=Path, help="the texts that the filter kept, JSONL")
    parser.add_argument("--name", help="the second corpus's name on the plots; default: its file's")
    parser.add_argument("--author", default="pushkin", help="folder of the first corpus")
    parser.add_argument("--tokenizer", type=Path, default=Path("ml/pretrained/pushkin-mini"))
    parser.add_argument("--words", type=int, help="words a sample; default: all of the smaller")
    parser.add_argument("--draws", type=int, default=5, help="samples, to see the chance in them")
    parser.add_argument("--threshold", type=int, default=10, help="occurrences of a frequent word")
    parser.add_argument("--window", type=int, default=512, help="tokens a training window")
    parser.add_argument("--seed", type=int, default=1799)
    parser.add_argument("--out", type=Path, default=results.FOLDER / "frequency.json")
    options = parser.parse_args(arguments)

    works = read_prose(options.corpus, options.author)
    stories = read_texts(options.texts)
    kept = read_texts(options.kept) if options.kept else None
    tokenizer = read_tokenizer(options.tokenizer)
    second = options.name or options.texts.stem.replace("_", " ")
    corpora = {PUSHKIN: [part for w in works for part in corpus.chapters(w)], second: stories}
    available = {name: frequency.count_words(texts) for name, texts in corpora.items()}
    size = options.words or min(available.values())
    for name, words in available.items():
        if not 0 < size <= words:
            raise SystemExit(f"{name} has {words:,} words, a sample of {size:,} is asked for")

    def measure(texts: list[str]) -> dict[str, Any]:
        ids = (token for text in texts for token in tokenizer.encode(text).ids)
        kinds: dict[str, Iterable[Any]] = {
            "words": frequency.words(texts),
            "lemmas": frequency.lemmas(texts),
            "tokens": ids,
        }
        return {k: frequency.measure(units, options.threshold) for k, units in kinds.items()}

    seeds = range(options.seed, options.seed + options.draws)
    samples = {
        name: join_draws([measure(frequency.draw_sample(texts, size, seed)) for seed in seeds])
        for name, texts in corpora.items()
    }
    figures = {
        "threshold": options.threshold,
        "words_a_sample": size,
        "samples": samples,
        "whole": {name: without_points(measure(texts)) for name, texts in corpora.items()},
        "seed_project": SEED_FIGURES,
        "text_lengths": measure_lengths(second, stories, kept),
        "windows": measure_windows(corpora, tokenizer, options.window),
    }
    results.save(
        options.out,
        figures,
        command=f"python -m scripts.count_words CORPUS --texts {options.texts}"
        + (f" --kept {options.kept}" if options.kept else "")
        + (f" --words {options.words}" if options.words else ""),
        seed=options.seed,
        config={
            "author": options.author,
            "draws": options.draws,
            "tokenizer": str(options.tokenizer),
            "texts_sha256": hashlib.sha256(options.texts.read_bytes()).hexdigest(),
        },
        data=corpus.corpus_hash(works),
    )
    print(f"samples of {size:,} words; frequent: at least {options.threshold} times")
    for name, kinds in samples.items():
        for kind, found in kinds.items():
            low, high = found["share_frequent_range"]
            share = f"{found['share_frequent']:.2%} frequent ({low:.2%} to {high:.2%})"
            print(f"{name}, {kind}: {found['distinct']:,} distinct, {share}")
    print(options.out)


def read_prose(folder: Path, author: str) -> list[corpus.Work]:
    try:
        works = corpus.read_works(folder)
    except corpus.CorpusError as error:
        raise SystemExit(str(error)) from error
    works = [work for work in works if work.genre in corpus.PROSE and work.folder == author]
    if not works:
        raise SystemExit(f"{folder / 'SOURCES.tsv'}: names no prose of {author}")
    return works


def read_texts(path: Path) -> list[str]:
    """Return the texts of a JSONL file, cleaned as the corpus is."""
    try:
        found = [corpus.clean(story) for story in read_stories(path)]
    except corpus.CorpusError as error:
        raise SystemExit(str(error)) from error
    if not any(found):
        raise SystemExit(f"{path}: no texts")
    return found


def read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise SystemExit(f"{path}: {error}") from error


def join_draws(drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first sample's figures, with the least and the largest of all the samples."""
    first = drawn[0]
    for kind, found in first.items():
        for figure in ("distinct", "share_frequent"):
            values = [figures[kind][figure] for figures in drawn]
            found[f"{figure}_range"] = [min(values), max(values)]
    return first


def without_points(kinds: dict[str, Any]) -> dict[str, Any]:
    """Drop the curves: those of the equal samples are the ones to compare."""
    return {
        kind: {name: value for name, value in found.items() if name != "rank_frequency"}
        for kind, found in kinds.items()
    }


def measure_lengths(name: str, texts: list[str], kept: list[str] | None) -> dict[str, Any]:
    """Return histograms of the texts' lengths in characters, before the filter and after it."""
    edges = frequency.round_edges(max(map(len, texts + (kept or []))))
    groups = {"before": texts} | ({"after": kept} if kept is not None else {})
    return {
        "corpus": name,
        "edges": edges,
        **{
            group: {
                "texts": len(members),
                "characters": sum(map(len, members)),
                "counts": frequency.histogram(map(len, members), edges),
            }
            for group, members in groups.items()
        },
    }


def measure_windows(
    corpora: dict[str, list[str]], tokenizer: Tokenizer, window: int
) -> dict[str, Any]:
    """Return histograms of window lengths if every text began a window, and the padding's share.

    Packed into one stream (``ml.dataset.pack``) all windows are full but one.
    """
    edges = [*range(0, window, max(1, window // 16)), window]
    found: dict[str, Any] = {}
    for name, texts in corpora.items():
        lengths = [len(tokenizer.encode(text).ids) + 1 for text in texts]  # + the end of a text
        windows = frequency.cut_windows(lengths, window)
        found[name] = {
            "windows": len(windows),
            "packed_windows": -(-sum(lengths) // window),
            "padding": 1 - sum(lengths) / (len(windows) * window),
            "counts": frequency.histogram(windows, edges),
        }
    return {"length": window, "edges": edges, "corpora": found}


if __name__ == "__main__":
    main()
