"""What speculative decoding could bring at best, on a model of ruGPT-3 medium's size.

python -m scripts.bench_speculation [--rounds 3] [--readers 1 4 8] [--propose 2 3 5] [--story 48]
    [--cores 1] [--work out/bench_speculation] [--out FILE]

The model is pushkin-mini, widened to the size of ruGPT-3 medium, the draft pushkin-mini itself:
it proposes what the model would say (ml/bench_speculation.py). In turns, without a draft and with
so many tokens proposed a step; a first run builds and converts, 2 minutes.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path
from statistics import median

from ml import bench, registry, results
from ml.bench_speculation import Speculation, Speed, save_pair

COPIES, LAYERS = 3, 31  # 351.6 million parameters; ruGPT-3 medium has 355.9


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more warms up")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--propose", type=int, nargs="+", default=[2, 3, 5], help="tokens a step")
    parser.add_argument("--story", type=int, default=48, help="tokens")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--cores", type=int, help="that it may use; default: all")
    parser.add_argument("--work", type=Path, default=Path("out/bench_speculation"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "bench_speculation.json")
    options = parser.parse_args(arguments)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    folder = save_pair(registry.BUNDLED, options.work, copies=COPIES, layers=options.layers)
    load = bench.load_average()
    writers = {
        n: Speculation(folder, tokens=n, slots=max(options.readers)) for n in (0, *options.propose)
    }
    found: dict[tuple[int, int], list[Speed]] = defaultdict(list)
    for round_ in range(options.rounds + 1):
        for readers in options.readers:
            for proposed, writer in writers.items():
                speed = writer.write(readers, options.story, seed=round_)
                if round_:
                    found[readers, proposed].append(speed)
    rows = []
    for (readers, proposed), speeds in found.items():
        row = {
            "readers": readers,
            "proposed": proposed,
            "tokens_per_second": median(one.tokens_per_second for one in speeds),
            "tokens_per_step": median(one.tokens_per_step for one in speeds),
            "ratio": median(
                one.tokens_per_second / plain.tokens_per_second
                for one, plain in zip(speeds, found[readers, 0], strict=True)
            ),
        }
        rows.append(row)
        print(
            "{readers} readers, {proposed} proposed: {tokens_per_second:.1f} tokens/s, "
            "{tokens_per_step:.2f} a step, {ratio:.2f} times as fast".format(**row)
        )
    results.save(
        options.out,
        {"machine": bench.machine(), "load_average": load, "rows": rows},
        command="python -m scripts.bench_speculation"
        + results.given(
            parser, options, "rounds", "readers", "propose", "story", "layers", "cores"
        ),
        config={"rounds": options.rounds, "copies": COPIES, "layers": options.layers},
        seed=0,
    )


if __name__ == "__main__":
    main()
