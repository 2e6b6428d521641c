"""Score texts and filter them: JSONL in, JSONL and a table of figures out.

python -m scripts.score_texts FILE.jsonl [--corpus FOLDER] [--authors out/authors]
                              [--out FILE.scored.jsonl] [--keep] [--max-quoted 60 ...]
python -m scripts.score_texts --corpus FOLDER   (only fits the authors and examines them)

Every line of FILE is an object with the text under "text"; the output adds "score" to it. With
--keep only the texts that pass the filters are written. The authors and the index of quotations
are fitted on the corpus once, and kept in the --authors folder until the corpus or the split
changes. Without --corpus the folder is used as it is.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ml import authors, corpus, judges, results
from ml.quotation import QuotationIndex
from ml.scoring import Filters, Score, score, summarise
from ml.segments import SplitError, unseen

REPORT = results.FOLDER / "authors.json"


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.file or options.corpus):
        parser.error("name a FILE to score or a --corpus to fit on")
    if options.file and not options.out:
        options.out = options.file.with_suffix(".scored.jsonl")
    try:
        if options.corpus:
            model, index = _prepare(options)
        else:
            model, index = judges.open_folder(options.authors)
        if options.file:
            _score_file(options, model, index)
    except (corpus.CorpusError, authors.AuthorsError, SplitError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:  # a full disk names no file
        name = error.filename or (options.out if options.file else options.authors)
        raise SystemExit(f"{name}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", help='JSONL with a "text" in every line')
    parser.add_argument("--corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--split", type=Path, default=corpus.SPLIT_FILE)
    parser.add_argument("--authors", type=Path, default=judges.FOLDER)
    parser.add_argument("--report", type=Path, default=REPORT, help="of a fit; %(default)s")
    parser.add_argument("--out", type=Path, help="FILE.scored.jsonl by default")
    parser.add_argument("--keep", action="store_true", help="write only texts that pass")
    filters = parser.add_argument_group("filters")
    for bound in fields(Filters):
        filters.add_argument(
            f"--{bound.name.replace('_', '-')}",
            type=float,
            default=bound.default,
            help=f"{bound.metadata['help']}; %(default)s",
        )
    return parser


def _prepare(options: argparse.Namespace) -> judges.Judges:
    """Return the judges of this corpus, from the folder if it has them."""
    works = corpus.read_works(options.corpus)
    split = corpus.load_split(options.split)
    if found := judges.load(options.authors, works, split):
        return found
    started = time.process_time()
    fitted = judges.fit(works, split)
    _report(options, fitted, works, split, time.process_time() - started)
    judges.save(fitted, options.authors)
    return fitted


def _report(
    options: argparse.Namespace,
    fitted: judges.Judges,
    works: list[corpus.Work],
    split: dict[str, list[str]],
    seconds: float,
) -> None:
    """Measure on the works held out how good the judges are, and save it."""
    model, index = fitted
    figures = authors.examine(model, works)
    unmasked = authors.fit(works, split, replace(model.settings, mask=False))
    without = authors.examine(unmasked, works)
    brief = ("accuracy", "mean_recall", "recall", "precision", "taken_for_target")
    controls = {}
    for author, texts in unseen(works, model.held_out, model.target, per_author=30).items():
        controls[author] = summarise([score(t, index=index, authors=model) for t in texts])
        if author != model.target:  # his works are in the index themselves
            del controls[author]["unquoted"], controls[author]["longest_quotation"]
    results.save(
        options.report,
        {
            "classifier": figures,
            "without_masking": {name: without[name] for name in brief},
            "held_out_segments_scored": controls,
            "delta_words": model.words,
            "held_out": model.held_out,
            "cpu_seconds_to_fit": round(seconds, 1),
        },
        command="python -m scripts.score_texts --corpus CORPUS",
        seed=model.settings.seed,
        config=asdict(model.settings),
        data=model.data,
    )
    print(f"{model.target} among {len(model.authors)} authors, on works held out:")
    for name in brief:
        print(f"  {name:18} {figures[name]:7.1%}   without masking {without[name]:7.1%}")
    print(f"{options.report} written")


def _score_file(
    options: argparse.Namespace, model: authors.AuthorModel, index: QuotationIndex
) -> None:
    """Score line after line; the output replaces an older one only when all is well."""
    source: Path = options.file
    out: Path = options.out
    if out.resolve() == source.resolve():
        raise SystemExit(f"{out}: is the input; name another --out")
    filters = Filters(**{bound.name: getattr(options, bound.name) for bound in fields(Filters)})
    scores: list[Score] = []
    dropped: Counter[str] = Counter()
    kept = 0
    temporary = out.with_name(out.name + ".part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for record in _records(source):
                found = score(record["text"], index=index, authors=model)
                scores.append(found)
                failures = filters.failures(found)
                dropped.update(failures)
                kept += not failures
                if not (options.keep and failures):
                    line = json.dumps({**record, "score": asdict(found)}, ensure_ascii=False)
                    file.write(line + "\n")
        if not scores:
            raise SystemExit(f"{source}: holds no text")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    for name, figure in summarise(scores).items():
        print(f"{name:18} {'–' if figure is None else format(figure, '.3f')}")
    print(f"{kept} of {len(scores)} texts pass the filters")
    for name, count in dropped.most_common():
        print(f"  {name} ({getattr(filters, name):g}): {count} fail")
    print(f"{out} written")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file, blank lines left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                json.dumps(record, ensure_ascii=False).encode()  # half a surrogate cannot be kept
            except ValueError as error:  # broken JSON, or not UTF-8
                raise SystemExit(f"{path}:{number}: not a JSON object ({error})") from error
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise SystemExit(f'{path}:{number}: not an object with a "text"')
            yield record


if __name__ == "__main__":
    main()
