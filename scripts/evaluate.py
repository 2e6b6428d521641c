"""Measure models on the held-out works, and what they write.

python -m scripts.evaluate MODEL… --corpus CORPUS [--authors out/authors] [--openings 50]
    [--preset pushkin] [--temperature 0.8] [--top-p 0.9] [--top-k 60]
    [--out docs/experiments/results/evaluate.json]

MODEL is a folder: a model of transformers, or one that scripts.train_baselines left in its work
folder. Models the bot can serve write with its engine and default settings, 320 tokens at most;
the others by the plain loop, 100. --preset names other settings (ml.decoding); "seed", the
decoding this project began with, writes with transformers' plain generate and takes models of
transformers only. The continuation is judged, not the opening. Writes the JSON,
the same as a Markdown table beside it, and the texts as JSON Lines. scripts.score_texts --corpus
fits the authors first.
"""

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import set_seed

from ml import authors, corpus, results, texts
from ml.decoding import PRESETS, SEED, Sampling, chosen
from ml.engine import EngineError, GenerationError
from ml.engine_torch import TorchEngine
from ml.evaluate import bits_per_character
from ml.generation import tell, write
from ml.models import Loaded, ModelError, load
from ml.quotation import QuotationIndex
from ml.scoring import score, summarise

OPENINGS = Path("ml/data/prompts.json")  # the seed's five showcase openings are its first
_COLUMNS = {
    "repeated_4grams": "repeated 4-grams",
    "attributed_to_pushkin": "attributed to Pushkin",
    "verbatim_under_80": "no verbatim run over 80",
    "sentence_end": "end with a sentence",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with SOURCES.tsv")
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--authors", type=Path, default=Path("out/authors"))
    parser.add_argument("--prompts", type=Path, default=OPENINGS)
    parser.add_argument("--openings", type=int, default=50, help="how many of them; 0: none")
    parser.add_argument("--preset", choices=[*PRESETS, "seed"], default="pushkin")
    parser.add_argument("--temperature", type=float, help="in place of the preset's")
    parser.add_argument("--top-p", type=float, help="in place of the preset's")
    parser.add_argument("--top-k", type=int, help="in place of the preset's")
    parser.add_argument("--seed", type=int, default=1799)
    parser.add_argument("--out", type=Path, default=results.FOLDER / "evaluate.json")
    options = parser.parse_args(arguments)
    sampling = _sampling(parser, options)
    rows, written = [], []
    try:
        openings = texts.read_json(options.prompts)[: options.openings]
        data = texts.load(options.corpus, {}, split_file=options.split)
        judges = None
        if openings:
            index = QuotationIndex.load(options.authors / "quotations.npz")
            judges = index, authors.load(options.authors)
        for folder in options.models:
            loaded = load(folder)
            row = _measure(loaded, data)
            if judges:
                stories = _write(folder, loaded, openings, options.seed, sampling)
                row["generations"] = _judge(stories, *judges)
                written += [
                    {"model": loaded.name, "opening": opening, "text": story}
                    for opening, story in zip(openings, stories, strict=True)
                ]
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    except (corpus.CorpusError, ModelError, authors.AuthorsError) as error:
        raise SystemExit(str(error)) from error
    except (EngineError, GenerationError) as error:
        raise SystemExit(f"{folder} cannot write: {error}") from error
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}") from error
    models = " ".join(map(str, options.models))
    results.save(
        options.out,
        {"models": rows},
        command=f"python -m scripts.evaluate {models} --corpus CORPUS"
        + results.given(parser, options, "preset", "temperature", "top_p", "top_k"),
        seed=options.seed,
        config={
            "sampling": asdict(sampling) if sampling else dict(SEED),
            "openings": len(openings),
        },
        data=data.sha256,
    )
    results.write_text(options.out.with_suffix(".md"), _table(rows))
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written)
    if written:
        results.write_text(options.out.with_suffix(".jsonl"), lines)
    else:  # an older table's texts are not this one's
        options.out.with_suffix(".jsonl").unlink(missing_ok=True)


def _sampling(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Sampling | None:
    """Return the settings that the options name; None for those of ``generate``."""
    own = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k")}
    given = {name: value for name, value in own.items() if value is not None}
    if options.preset == "seed":
        if given:
            parser.error("--preset seed is taken as it was, without other settings")
        return None
    try:
        return chosen(given, PRESETS[options.preset])
    except ValueError as error:
        parser.error(str(error))


def _measure(loaded: Loaded, data: texts.Texts) -> dict[str, Any]:
    parts = {"validation": data.validation, "test": data.test}
    return {
        "name": loaded.name,
        "parameters": loaded.parameters,
        "context": loaded.context,
        "bits_per_character": {
            part: round(
                bits_per_character(
                    loaded.model, loaded.tokenizer, documents, context=loaded.context
                ),
                4,
            )
            for part, documents in parts.items()
        },
    }


def _write(
    folder: Path, loaded: Loaded, openings: list[str], seed: int, sampling: Sampling | None
) -> list[str]:
    """Return a continuation of each opening."""
    if sampling is None:
        if not loaded.serves:
            raise ModelError(f"{folder}: --preset seed is for models of transformers")
        return [
            _generate(loaded, opening, seed + number) for number, opening in enumerate(openings)
        ]
    if loaded.serves:
        return asyncio.run(tell(TorchEngine(str(folder)), openings, seed=seed, sampling=sampling))
    return [
        write(
            loaded.model,
            loaded.tokenizer,
            opening,
            tokens=100,
            context=loaded.context,
            seed=seed + number,
            sampling=sampling,
        )[len(opening) :]
        for number, opening in enumerate(openings)
    ]


def _generate(loaded: Loaded, opening: str, seed: int) -> str:
    """Return an opening's continuation by transformers' own loop, as ``SEED`` says."""
    set_seed(seed)
    ids = loaded.tokenizer(opening, return_tensors="pt", add_special_tokens=False)
    generate: Any = loaded.model.get_submodule("model")
    length = min(SEED["max_length"], loaded.context)
    end = loaded.tokenizer.eos_token_id
    [written] = generate.generate(**ids, **dict(SEED) | {"max_length": length}, pad_token_id=end)
    new = written[ids.input_ids.shape[1] :].tolist()
    return str(loaded.tokenizer.decode(new, skip_special_tokens=True))


def _judge(stories: list[str], index: QuotationIndex, model: authors.AuthorModel) -> dict[str, Any]:
    found = [score(story, index=index, authors=model) for story in stories]
    figures = summarise(found)
    return {
        "texts": figures["texts"],
        "characters": figures["characters"],
        "repeated_4grams": figures["repetition"],
        "attributed_to_pushkin": figures["attributed"],
        "verbatim_under_80": figures["unquoted"],
        "longest_verbatim": figures["longest_quotation"],
        "sentence_end": figures["ends"],
        "mattr": figures["variety"],
        "delta": figures["delta"],
        "authors": {
            author: sum(one.author == author for one in found)
            for author in sorted({one.author for one in found})
        },
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    head = ["model", "parameters", "validation", "test", *_COLUMNS.values()]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for row in rows:
        figures, written = row["bits_per_character"], row.get("generations")
        cells = [row["name"], f"{row['parameters']:,}"]
        cells += [f"{figures[part]:.3f}" for part in ("validation", "test")]
        cells += [f"{written[key]:.1%}" if written else "–" for key in _COLUMNS]
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    main()
