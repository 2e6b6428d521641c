"""Average the weights of models of one origin, measure the mean and write it as a model folder.

python -m scripts.average_models MODEL… --weights 0.5 0.5 --corpus CORPUS
    [--out ml/pretrained/pushkin-mini]

Tokenizer, recipe and history are the last model's.
"""

import argparse
import json
from pathlib import Path

from ml import corpus, results, texts, tokenizer
from ml.checkpoint import average, export
from ml.evaluate import bits_per_character


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--weights", type=float, nargs="+", required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with SOURCES.tsv")
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--out", type=Path, default=Path("ml/pretrained/pushkin-mini"))
    options = parser.parse_args(arguments)
    if len(options.models) != len(options.weights):
        parser.error("as many --weights as models, please")
    try:
        data = texts.load(options.corpus, {}, split_file=options.split)
        meta = json.loads((options.models[-1] / "meta.json").read_text("utf-8"))
    except corpus.CorpusError as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}") from error
    model = average(options.models, options.weights).bfloat16()  # as it ships
    codec = tokenizer.load(options.models[-1])
    context = meta["model"]["context"]
    meta["bits_per_character"] = figures = {
        part: round(bits_per_character(model, codec, documents, context=context), 4)
        for part, documents in (("validation", data.validation), ("test", data.test))
    }
    named = [str(folder) for folder in options.models]
    meta["averaged"] = dict(zip(named, options.weights, strict=True))
    meta["commit"] = results.commit()
    weights = " ".join(map(str, options.weights))
    meta["command"] = (
        f"python -m scripts.average_models {' '.join(named)} --weights {weights} --corpus CORPUS"
    )
    export(model, codec, meta, options.out)
    print(f"{options.out}: {figures} bits per character")


if __name__ == "__main__":
    main()
