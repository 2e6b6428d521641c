"""Measure cleaning and tokenising as streams on one core: MB/s, and memory against size.

python -m scripts.bench_corpus FOLDER [--megabytes 1000]

A file of the asked size is made by repeating the folder's texts. Each size is measured in a
process of its own: cleaning alone, tokenising alone, then both into a file of 16-bit tokens.
MB are 10^6 bytes of UTF-8. Up to the folder's own size nothing is repeated, so the smaller
sizes show the speed on fresh text. For comparison: the library's tokenizer without our memory
of words, on the smallest size.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ml import results
from ml.cleaning import clean_lines
from ml.corpus import CorpusError, corpus_hash, read_lines, read_table, read_works

MB = 10**6
TOKENIZER = Path("ml/pretrained/pushkin-mini")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a corpus: texts and their SOURCES.tsv")
    parser.add_argument("--megabytes", type=float, default=1000, help="size of the largest file")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="its folder")
    parser.add_argument("--work", type=Path, default=Path("out"), help="for temporary files")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "corpus_speed.json")
    options = parser.parse_args(arguments)
    if not (options.tokenizer / "tokenizer.json").is_file():
        raise SystemExit(f"{options.tokenizer / 'tokenizer.json'}: not found")
    sizes = sorted({size for size in (10, 100) if size < options.megabytes} | {options.megabytes})
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=options.work) as temporary:
            rows = [
                measure_apart(
                    options.folder, size, options.tokenizer, Path(temporary), size == sizes[0]
                )
                for size in tqdm(sizes, unit="size", disable=None)
            ]
    except CorpusError as error:
        raise SystemExit(str(error)) from None
    for row in rows:
        print(show(row))
    command = f"python -m scripts.bench_corpus CORPUS --megabytes {options.megabytes:g}"
    config = {"tokenizer": str(options.tokenizer), "cores": len(os.sched_getaffinity(0))}
    data = corpus_hash(read_works(options.folder))
    results.save(options.out, {"sizes": rows}, command=command, config=config, data=data)


def show(row: dict[str, Any]) -> str:
    """Return one line about one size."""
    speeds = ", ".join(
        f"{name} {row[name]['mb_per_second']:.1f} ({row[name]['mb_per_processor_second']:.1f})"
        for name in ("cleaning", "tokenising", "both", "library")
        if name in row
    )
    size, peak = row["megabytes"], row["peak_mb"]
    return f"{size:g} MB: MB/s (in processor time): {speeds}; peak memory {peak:.0f} MB"


def measure_apart(
    folder: Path, size: float, tokenizer: Path, temporary: Path, library: bool
) -> dict[str, Any]:
    """Run ``measure`` in a fresh process, whose peak memory is this size's alone."""
    text = temporary / "text.txt"
    repeat_texts(folder, text, int(size * MB))
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (text, tokenizer, temporary / "tokens.bin", library))


def repeat_texts(folder: Path, target: Path, size: int) -> None:
    """Write the folder's texts, line by line and over again, until ``size`` bytes are there."""
    files = [folder / row["file"] for row in read_table(folder)]
    written = 0
    with target.open("w", encoding="utf-8") as out:
        while True:
            for file in files:
                for line in read_lines(file):
                    written += len(line.encode()) + out.write("\n")
                    out.write(line)
                    if written >= size:
                        return


def measure(text: Path, tokenizer_folder: Path, target: Path, library: bool) -> dict[str, Any]:
    """Return speeds, counts and this process's peak memory for one file of text."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import numpy as np
    from tokenizers import Tokenizer

    from ml.encoding import WordCache, encode_stream

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))

    def encode(piece: str) -> list[int]:
        return tokenizer.encode(piece, add_special_tokens=False).ids

    def write(paragraphs: Iterable[str]) -> int:
        with target.open("wb") as out:
            for tokens in encode_stream(paragraphs, WordCache(encode)):
                tokens.tofile(out)
        return target.stat().st_size // 2

    def ask_library() -> int:
        with target.open("wb") as out:
            for line in read_lines(text):
                np.array(encode(line + "\n"), dtype=np.uint16).tofile(out)
        return target.stat().st_size // 2

    size = text.stat().st_size
    row: dict[str, Any] = {"megabytes": round(size / MB, 3)}
    row["cleaning"] = clock(lambda: sum(1 for _ in clean_lines(read_lines(text))), size)
    row["tokenising"] = clock(lambda: write(read_lines(text)), size)
    row["both"] = clock(lambda: write(clean_lines(read_lines(text))), size)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB
    if library:
        row["library"] = clock(ask_library, size)
    return row


def clock(work: Callable[[], int], size: int) -> dict[str, float]:
    """Return what ``work`` counted, its seconds by the wall and by the processor, its MB/s."""
    wall, processor = time.perf_counter(), time.process_time()
    count = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "count": count,
        "seconds": wall,
        "processor_seconds": processor,
        "mb_per_second": size / MB / wall,
        "mb_per_processor_second": size / MB / processor,
    }


if __name__ == "__main__":
    main()
