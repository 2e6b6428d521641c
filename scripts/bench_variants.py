"""What makes OpenVINO faster and what does not, on random weights of ruGPT-3 medium's exact shape.

python -m scripts.bench_variants [--rounds 3] [--readers 1 8 16] [--work out/bench_variants]
    [--quality ml/pretrained/pushkin-mini] [--out docs/experiments/results/bench_variants.json]

Every variant in turns, in seconds of processor a step on one thread. What a form of the weights
costs in quality, only real ones can tell: --quality's bits per character on our sample stories.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ml import results
from ml.bench import load_average, machine
from ml.bench_forms import measure_forms, save_forms
from ml.bench_model import build
from ml.bench_variants import Steps, Variant, variants
from ml.gpt import RUGPT3_MEDIUM

STEPS = 16


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more warms up")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--quality", type=Path, default=Path("ml/pretrained/pushkin-mini"))
    parser.add_argument("--work", type=Path, default=Path("out/bench_variants"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "bench_variants.json")
    options = parser.parse_args(arguments)
    tried = variants(RUGPT3_MEDIUM["width"])
    forms = list(dict.fromkeys(variant.form for variant in tried))
    folder = build(options.work, **RUGPT3_MEDIUM)
    save_forms(folder, options.work, forms)
    seconds = measure(tried, options.work, options.readers, options.rounds)
    bits = measure_forms(options.quality, options.work / "quality", forms)
    rows = []
    for variant in tried:
        times = {n: 1e3 * seconds[variant.name, n] for n in options.readers}
        worse = bits[variant.form] / bits["original"] - 1
        rows.append({"name": variant.name, "milliseconds": times, "worse": worse})
        said = ", ".join(f"{time:.1f} at {n}" for n, time in times.items())
        print(f"{variant.name}: ms a step {said}; bits per character {worse:+.2%}")
    results.save(
        options.out,
        {"machine": machine(), "load_average": load_average(), "bits": bits, "rows": rows},
        command="python -m scripts.bench_variants" + results.given(parser, options, "rounds"),
        config={"rounds": options.rounds, "steps": STEPS, "shape": RUGPT3_MEDIUM},
        seed=0,
    )


def measure(
    tried: Sequence[Variant], work: Path, readers: Sequence[int], rounds: int
) -> dict[tuple[str, int], float]:
    """Return the median seconds of processor a step, by variant and readers."""
    slots = max(readers)
    writers = {one.name: Steps(work / one.form, one, slots=slots) for one in tried}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for round_ in range(rounds + 1):
        for n in readers:
            for name, writer in writers.items():
                seconds = writer.write(n, STEPS)
                if round_:
                    found[name, n] += seconds
    return {key: statistics.median(seconds) for key, seconds in found.items()}


if __name__ == "__main__":
    main()
