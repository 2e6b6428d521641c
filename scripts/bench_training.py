"""Measure the training loop against transformers' Trainer, by model size and by context.

python -m scripts.bench_training CORPUS [--steps 6] [--rounds 2] [--only-mini] [--no-compile]
    [--out docs/experiments/results/bench_training.json]

Only the ratios say something: both sides run in this one process, taking turns.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from ml import results, texts, tokenizer
from ml.corpus import SPLIT_FILE, CorpusError
from ml.dataset import pack
from ml.throughput import Setting, compare

_MODEL = Path("ml/pretrained/pushkin-mini")
_MINI = Setting(width=320, layers=6, heads=5)
_SETTINGS = (
    _MINI,
    Setting(width=128, layers=4, heads=2),
    Setting(width=192, layers=6, heads=3),
    Setting(width=384, layers=6, heads=6),
    Setting(width=320, layers=6, heads=5, context=128, batch=32),
    Setting(width=320, layers=6, heads=5, context=1024, batch=4),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with SOURCES.tsv")
    parser.add_argument("--split", type=Path, default=SPLIT_FILE)
    parser.add_argument("--steps", type=int, default=6, help="counted steps a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only-mini", action="store_true", help="pushkin-mini's setting alone")
    parser.add_argument("--no-compile", action="store_true", help="ours without torch.compile")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "bench_training.json")
    options = parser.parse_args(arguments)
    try:
        data = texts.load(options.corpus, {"pushkin": ["pushkin"]}, (), options.split)
    except CorpusError as error:
        raise SystemExit(str(error)) from error
    codec = tokenizer.load(_MODEL)
    stream = pack(data.everything(), codec)
    rows = []
    for setting in _SETTINGS[:1] if options.only_mini else _SETTINGS:
        speed = compare(
            setting,
            stream,
            vocabulary=len(codec),
            steps=options.steps,
            rounds=options.rounds,
            compiled=not options.no_compile,
        )
        figures = {"ours": speed.ours, "trainer": speed.trainer, "ratio": speed.ratio}
        rows.append({**asdict(setting), "parameters": speed.parameters, **figures})
        print(
            f"{speed.parameters:,} parameters, context {setting.context}, batch {setting.batch}: "
            f"{speed.ours:.0f} and {speed.trainer:.0f} tokens/s, ratio {speed.ratio:.2f}",
            flush=True,
        )
    results.save(
        options.out,
        {"rows": rows},
        command="python -m scripts.bench_training CORPUS"
        + results.given(parser, options, "steps", "rounds", "only_mini", "no_compile"),
        config={
            "steps": options.steps,
            "rounds": options.rounds,
            "compile": not options.no_compile,
            "tokenizer": str(_MODEL),
        },
        data=data.sha256,
    )


if __name__ == "__main__":
    main()
