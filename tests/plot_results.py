"""Small made-up results, one of each kind, for the tests that draw them."""

import json
import math
from pathlib import Path
from typing import Any


def curve(x: str, *, loss: float = 5.0, validation: float = 3.0) -> list[dict[str, Any]]:
    """Six measurements, of which every second has a validation."""
    return [
        {
            x: 100 * step,
            "seconds": 2.0 * step,
            "flops": 1e12 * step,
            "loss": loss - step / 5,
            "validation": validation - step / 10 if step % 2 else None,
        }
        for step in range(6)
    ]


def counted(distinct: int) -> dict[str, Any]:
    return {
        "total": 3 * distinct,
        "distinct": distinct,
        "frequent": distinct // 4,
        "share_frequent": 0.25,
        "share_frequent_range": [0.22, 0.26],
        "rank_frequency": [[rank, 2 * distinct // rank] for rank in (1, 3, 10, distinct)],
    }


def trial(family: str, ranges: str, bits: float | None, state: str = "complete") -> dict[str, Any]:
    return {
        "family": family,
        "ranges": ranges,
        "number": 0,
        "state": state,
        "params": {"width": 8},
        "parameters": 1000,
        "seconds": 3.5,
        "bits_per_character": bits,
        "curve": [] if bits is None else curve("step", validation=bits),
    }


def model(name: str, kind: str, bits: float, minutes: float = 12) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "parameters": 1_500_000,
        "minutes": minutes,
        "peak_memory_mb": 300.0,
        "bits_per_character": {"validation": bits + 0.1, "test": bits},
        "curve": [] if kind == "ngram" else curve("step", loss=2, validation=bits),
    }


def speed(parameters: int, context: int, ours: float) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "width": parameters // 10_000,
        "context": context,
        "batch": 4,
        "ours": ours,
        "trainer": 1000.0,
        "ratio": ours / 1000,
    }


def dissected(level: float) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "cross_entropy": level,
            "perplexity": math.exp(level),
            "seed_metric": 300.0 + step,
        }
        for step in (0, 25, 50)
    ]


def engine(name: str, speed: float, works: list[tuple[int, int, int]]) -> dict[str, Any]:
    """An engine that was measured with so many (readers, opening, story)."""
    return {
        "name": name,
        "limit_tokens_per_second": 130.0,
        "levels": [
            {
                "readers": readers,
                "prompt": prompt,
                "story": story,
                "speed": speed * readers**0.7,
                "first_p50": prompt / 100,
                "first_p95": readers,
            }
            for readers, prompt, story in works
        ],
    }


WRITES = {
    "repeated_4grams": 0.025,
    "attributed_to_pushkin": 0.61,
    "verbatim_under_80": 0.98,
    "sentence_end": 0.96,
    "mattr": 0.77,
    "delta": 1.04,
}

RESULTS: dict[str, dict[str, Any]] = {
    "frequency.json": {
        "threshold": 10,
        "words_a_sample": 900,
        "samples": {
            name: {"words": counted(400), "lemmas": counted(300), "tokens": counted(200)}
            for name in ("Pushkin", "stories")
        },
        "text_lengths": {
            "corpus": "stories",
            "edges": [0, 1000, 2000, 3000],
            "before": {"texts": 9, "characters": 9000, "counts": [4, 3, 2]},
            "after": {"texts": 5, "characters": 7000, "counts": [0, 3, 2]},
        },
        "windows": {
            "length": 64,
            "edges": [0, 32, 64],
            "corpora": {
                name: {"windows": 10, "packed_windows": 7, "padding": 0.25, "counts": [4, 6]}
                for name in ("Pushkin", "stories")
            },
        },
    },
    "tokenizer_sweep.json": {
        "thresholds": [10, 100, 1000],
        "rows": [
            {
                "vocabulary": size,
                "share": {"10": 1.0, "100": 1.0 - size / 20_000, "1000": 1.0 - size / 10_000},
                "characters_per_token": 3.0,
                "bits_per_character": None if size == 200 else 2.0 + size / 10_000,
                "parameters": 1000,
            }
            for size in (4400, 200, 1410)
        ],
    },
    "search.json": {
        "trigram_bits_per_character": 2.14,
        "trials": [
            trial("linear", "seed", 3.4),
            trial("gru", "seed", 3.3),
            trial("gru", "sane", 2.3),
            trial("gru", "sane", 2.2),
            trial("lstm", "sane", 2.9, "pruned"),
            trial("lstm", "sane", None, "failed"),
        ],
    },
    "baselines.json": {
        "models": [
            model("char GRU", "char", 2.2),
            model("trigram", "ngram", 2.14, 0.2),
            model("char LSTM", "character", 2.1),
            model("word LSTM", "word", 2.8),
            model("small GPT", "gpt", 1.9),
        ]
    },
    "scaling.json": {
        "runs": [
            {"parameters": size, "curve": [{"flops": 1e11}, {"flops": f}], "bits_per_character": b}
            for size, f, b in (
                (14_000_000, 1e13, 2.8),
                (2_000_000, 1e14, 2.2),
                (2_000_000, 1e13, 2.4),
                (14_000_000, 1e14, 2.1),
            )
        ]
    },
    "ablations.json": {
        "runs": [
            {"name": name, "parameters": 10, "seconds": 90.0, "bits_per_character": bits}
            for name, bits in (("as it is", 2.0), ("with Muon", 1.9))
        ]
    },
    "mini_runs.json": {
        "stages": [200, 400],
        "runs": [
            {"name": f"run {number}", "curve": curve("tokens", loss=4 + number / 10), "test": test}
            for number, test in enumerate([1.9, None, *[1.8] * 7])
        ],
    },
    "finetuning.json": {"runs": [{"name": "all layers", "curve": curve("epoch"), "test": None}]},
    "bench_training.json": {
        "rows": [
            speed(2_000_000, 128, 1900.0),
            speed(14_000_000, 128, 1500.0),
            speed(14_000_000, 512, 1400.0),
        ]
    },
    "bench_engines.json": {
        "fp32_tokens_per_second": 180.0,
        "contestants": [
            engine("ours", 40.0, [(1, 25, 48), (8, 25, 48)]),
            engine("vllm", 12.0, [(1, 25, 48), (8, 25, 48)]),
            engine("one", 8.0, [(1, 25, 48)]),
        ],
    },
    "bench_engines_grow.json": {
        "fp32_tokens_per_second": 180.0,
        "contestants": [
            engine(
                "ours",
                40.0,
                [(1, 25, 48), (8, 25, 48), (1, 500, 48), (1, 25, 32), (1, 25, 500)],
            )
        ],
    },
    "autopsy.json": {
        "vocabulary": 300,
        "unigram": 4.75,
        "curves": {"pooled": dissected(4.7), "sound": dissected(3.1)},
    },
    "evaluate.json": {
        "models": [
            {
                "name": name,
                "parameters": 1000,
                "bits_per_character": {"validation": 2.0, "test": bits},
                "generations": generations,
            }
            for name, bits, generations in (("trigram", 2.14, None), ("pushkin-mini", 1.7, WRITES))
        ]
    },
    "authors.json": {
        "classifier": {
            "accuracy": 0.875,
            "confusion": {
                "pushkin": {"pushkin": 30, "gogol": 2},
                "gogol": {"gogol": 25, "aksakov": 5},
            },
        },
    },
}


def write_results(folder: Path, results: dict[str, dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, result in (RESULTS if results is None else results).items():
        (folder / file).write_text(json.dumps(result, ensure_ascii=False), "utf-8")
    return folder
