"""Let a GPT-2 of ruGPT-3 medium's exact shape take real steps of fine-tuning: speed and memory.

python -m scripts.bench_finetune [--steps 3] [--window 512] [--work out/bench_finetune]
    [--out docs/experiments/results/bench_finetune.json]

The weights are random, so the loss means nothing; the steps are scripts.finetune's own. Each way of
training runs in a process of its own, whose greatest memory is its own, too.
"""

import argparse
import os
import resource
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ml import results, texts, tokenizer
from ml.checkpoint import export
from ml.finetune import FinetuneConfig, finetune
from ml.finetune_loop import FinetuneError
from ml.gpt import RUGPT3_MEDIUM, gpt_config, new_gpt

STORIES = Path("ml/data/sample_stories.jsonl")
TOKENIZER = Path("ml/pretrained/pushkin-mini")
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, activations worked out again": {"checkpointing": True},
    "LoRA, rank 16": {"rank": 16},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=3, help="steps of each way of training, 2 at least"
    )
    parser.add_argument("--window", type=int, default=512, help="tokens a row; one row a step")
    parser.add_argument("--work", type=Path, default=Path("out/bench_finetune"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "bench_finetune.json")
    options = parser.parse_args(arguments)
    rows = []
    for name, changes in WAYS.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                way = process.submit(
                    take_steps, changes, options.steps, options.window, options.work
                )
                rows.append({"name": name, **way.result()})
            except FinetuneError as error:
                raise SystemExit(str(error)) from error
        print(
            "{name}: {tokens_per_second:.1f} tokens/s, {peak_memory_gb:.1f} GB".format(**rows[-1])
        )
    results.save(
        options.out,
        {"shape": RUGPT3_MEDIUM, "cores": os.cpu_count(), "rows": rows},
        command="python -m scripts.bench_finetune"
        + results.given(parser, options, "steps", "window"),
        seed=0,
    )


def take_steps(changes: dict[str, Any], steps: int, window: int, work: Path) -> dict[str, Any]:
    """Fine-tune for some steps; return speed (tokens a second), memory (GB), losses."""
    shutil.rmtree(work, ignore_errors=True)
    base = work / "base"
    # Random rows beyond our tokenizer's are never asked for; the products are as large as ever.
    export(new_gpt(gpt_config(**RUGPT3_MEDIUM), seed=0), tokenizer.load(TOKENIZER), {}, base)
    stories = texts.read_stories(STORIES)
    config = FinetuneConfig(
        seed=0,
        window=window,
        batch=1,
        rows=1,
        rate=5e-5,
        log_every=1,
        validate_every=1e9,
        **changes,
    )
    lines: list[dict[str, Any]] = []
    made = finetune(
        config,
        str(base),
        stories,
        [stories[0][:400]],
        work / "run",
        should_stop=lambda: sum("loss" in line for line in lines) >= steps - 1,  # the last follows
        progress=lines.append,
    )
    losses = [line for line in lines if "loss" in line]
    first, last = losses[0], losses[-1]  # the first step allocates: it is not counted
    speed = (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])
    shutil.rmtree(work)
    return {
        "parameters": made.parameters,
        "trained_parameters": made.trained_parameters,
        "tokens_per_second": speed,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "losses": [line["loss"] for line in losses],
    }


if __name__ == "__main__":
    main()
