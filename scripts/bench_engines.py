"""Tokens a second of our engines and of others, on random weights of ruGPT-3 medium's exact shape.

python -m scripts.bench_engines [--rounds 3] [--readers 1 4 8 16 32] [--vllm PROGRAM]
    [--only ours bare one] [--cores 1] [--work out/bench_engines] [--grow] [--out FILE]

All of them in one run, in turns; nothing is downloaded. The bandwidth of the memory, measured in
the same run, bounds a single reader: each token takes all weights to read. Many readers are bounded
by how fast the cores multiply; in fp32 that is measured, too. Ours takes part in int8 and in int4;
whether ruGPT-3's own weights are good enough in int4, random ones cannot tell. --grow measures ours
in int8 alone, as readers, openings and stories grow.

A first run builds and converts the model, 5 minutes. All seats with vLLM want more than 25 GB:
leave one out by --only. CTranslate2 comes with pip install -c constraints.txt -e '.[bench]', vLLM
from an environment of its own.
"""

import argparse
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ml import bench, bench_engines, bench_others, conversion, results
from ml.bench import Run, Work
from ml.bench_seats import Contestant, Seat, interleave, seated
from ml.gpt import RUGPT3_MEDIUM
from ml.openvino_weights import INT4_GROUP

READERS = [1, 4, 8, 16, 32]
OURS, INT4, ONE = "ours", "int4", "one"
# What grows, one thing at a time.
GROWING = {
    "readers": [Work(readers) for readers in (1, 4, 16, 48)],
    "prompt": [Work(1, prompt=prompt) for prompt in (25, 100, 400, 1000)],
    "story": [Work(1, story=story) for story in (32, 100, 300, 1000)],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more warms up")
    parser.add_argument("--readers", type=int, nargs="+", default=READERS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="ours, int4, bare, torch, one, …")
    parser.add_argument("--vllm", type=Path, help="the program, if vLLM takes part")
    parser.add_argument("--cores", type=int, help="that it may use; default: all")
    parser.add_argument("--grow", action="store_true", help="ours alone, as work grows")
    parser.add_argument("--work", type=Path, default=Path("out/bench_engines"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench_engines: ended by a signal"))
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    from ml.bench_model import build

    folder = build(options.work, **RUGPT3_MEDIUM)
    works = [Work(readers) for readers in options.readers]
    if options.grow:
        works = sorted({work for group in GROWING.values() for work in group}, key=str)
        options.only = [OURS]
    slots = max(work.readers for work in works)
    chosen = [
        contestant
        for contestant in contestants(folder, slots, options.vllm)
        if contestant.name in (options.only or [contestant.name])
    ]
    for contestant in chosen:
        if contestant.prepare:
            contestant.prepare(folder)
    load = bench.load_average()
    bandwidth = bench.read_bandwidth()
    multiply = bench_others.multiply_rate()
    in_fp32 = multiply / 2 / weights_per_token()
    print(
        f"memory is read at {bandwidth / 1e9:.1f} GB/s; fp32 is multiplied at {multiply / 1e9:.0f} "
        f"GFLOP/s, which allows {in_fp32:.0f} tokens/s however many readers there are",
        flush=True,
    )
    rows = measure(chosen, folder / "tokenizer.json", works, options.rounds, bandwidth)
    name = "bench_engines_grow" if options.grow else "bench_engines"
    results.save(
        options.out or results.FOLDER / f"{name}.json",
        {
            "machine": bench.machine(),
            "load_average": load,
            "shape": RUGPT3_MEDIUM,
            "read_gb_per_second": bandwidth / 1e9,
            "fp32_gflops": multiply / 1e9,
            "fp32_tokens_per_second": in_fp32,
            "contestants": rows,
        },
        command="python -m scripts.bench_engines" + given(parser, options),
        config={"rounds": options.rounds},
        seed=0,
    )
    if not options.grow:
        for name in (OURS, INT4):
            if name in [row["name"] for row in rows]:
                print_ratios(rows, name)


def weights_per_token() -> int:
    """Return how many weights a token is multiplied with: all but the positions."""
    width, layers = RUGPT3_MEDIUM["width"], RUGPT3_MEDIUM["layers"]
    return RUGPT3_MEDIUM["vocabulary"] * width + layers * (12 * width + 13) * width


def contestants(folder: Path, slots: int, vllm: Path | None) -> list[Contestant]:
    weights = weights_per_token()
    openvino, ct2 = conversion.open_conversion, bench_others.for_ctranslate2
    head = RUGPT3_MEDIUM["vocabulary"] * RUGPT3_MEDIUM["width"]
    # Without instructions for it torch's bf16 is slower than fp32 by far.
    low, size = ("bfloat16", 2) if "avx512_bf16" in bench.instructions() else ("float32", 4)
    found = [
        Contestant(
            OURS, partial(bench_engines.our_openvino, folder, slots), weights, prepare=openvino
        ),
        Contestant(
            INT4,
            partial(bench_engines.our_int4, folder, slots),
            head + (weights - head) * (0.5 + 2 / INT4_GROUP),  # a scale in fp16 for each group
            prepare=bench_engines.in_int4,
        ),
        Contestant("bare", partial(bench_engines.bare_openvino, folder), weights, prepare=openvino),
        Contestant("ct2", partial(bench_others.ctranslate2, folder), weights, prepare=ct2),
        # Its cache is in fp32 and reserved at once: 8 slots take 4 GB, 32 would take 15.
        Contestant("torch", partial(bench_engines.our_torch, folder, 8), 4 * weights, most=8),
        Contestant("batch", partial(bench_others.transformers, folder, low), size * weights),
        Contestant(ONE, partial(bench_others.transformers, folder, "float32"), 4 * weights, most=1),
    ]
    if vllm:
        load = partial(bench_engines.vllm, folder, vllm, slots)
        found.append(Contestant("vllm", load, 2 * weights))
    return found


def measure(
    chosen: Sequence[Contestant],
    codec: Path,
    works: Sequence[Work],
    rounds: int,
    bandwidth: float,
) -> list[dict[str, Any]]:
    """Return a row a contestant, its figures by work among them; print each as it is known."""
    runs: dict[tuple[str, Work], list[Run]] = defaultdict(list)
    with seated(chosen, codec) as seats:
        for round_, work, seat, run in interleave(seats, works, rounds):
            name = seat.contestant.name
            runs[name, work].append(run)
            print(
                f"round {round_}, {name}, {work.readers} readers, {work.prompt} + {work.story} "
                f"tokens: {run.speed:.1f} tokens/s",
                flush=True,
            )
        return [row(seat, works, runs, bandwidth) for seat in seats]


def row(
    seat: Seat, works: Sequence[Work], runs: dict[tuple[str, Work], list[Run]], bandwidth: float
) -> dict[str, Any]:
    name, bytes_per_token = seat.contestant.name, seat.contestant.bytes_per_token
    levels = [
        {**asdict(work), **asdict(bench.summarise(runs[name, work]))}
        for work in works
        if (name, work) in runs
    ]
    peak = seat.peak_memory / 1e9
    limit = bandwidth / bytes_per_token
    print(
        f"{name}: loaded in {seat.load_seconds:.1f} s, at most {peak:.2f} GB; "
        f"reading its weights allows one reader {limit:.1f} tokens/s"
    )
    for level in levels:
        print(
            "  {readers:3} readers, {prompt} + {story} tokens: {speed:6.1f} tokens/s "
            "({slowest:.1f} to {fastest:.1f}), {per_processor_second:.1f} a second of processor; "
            "first token {first_p50:.2f} s, "
            "p95 {first_p95:.2f} s; then {per_token:.3f} s each".format(**level)
        )
    return {
        "name": name,
        "bytes_per_token": bytes_per_token,
        "limit_tokens_per_second": limit,
        "load_seconds": seat.load_seconds,
        "peak_memory_gb": peak,
        "levels": levels,
    }


def print_ratios(rows: Sequence[dict[str, Any]], ours: str) -> None:
    """Print by how many times one is faster than each; beyond its most another is no faster."""
    for figure, title in (("speed", "by the clock"), ("per_processor_second", "by the processor")):
        found = {
            row["name"]: {level["readers"]: level[figure] for level in row["levels"]}
            for row in rows
        }
        readers = list(found[ours])
        print(f"{ours} ÷ another {title}, readers:", *(f"{n:>7}" for n in readers))
        for name, speed in found.items():
            if name != ours:
                ratios = (found[ours][n] / speed.get(n, speed[max(speed)]) for n in readers)
                print(f"{name:>30}", *(f"{ratio:7.2f}" for ratio in ratios))
        limit = next(row["limit_tokens_per_second"] for row in rows if row["name"] == ours)
        if 1 in readers:
            print(f"one reader gets {found[ours][1] / limit:.0%} of what the memory allows")


def given(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Return the options as they were given; of vLLM's place only that it has one."""
    words = results.given(parser, options, "rounds", "cores")
    if options.grow:
        return f"{words} --grow"
    if options.readers != READERS:
        words += f" --readers {' '.join(map(str, options.readers))}"
    if options.only:
        words += f" --only {' '.join(options.only)}"
    return words + " --vllm PROGRAM" * bool(options.vllm)


if __name__ == "__main__":
    main()
