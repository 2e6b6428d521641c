"""Write the sample stories as a corpus folder, so that every experiment can run on them.

python -m scripts.unpack_stories [--stories ml/data/sample_stories.jsonl] [--out out/tiny/texts]

A group of themes becomes an author; OUT/split.json holds four stories of the last group out.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from ml.results import write_text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stories", type=Path, default=Path("ml/data/sample_stories.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("out/tiny/texts"))
    options = parser.parse_args(arguments)
    rows = ["file\tauthor\ttitle\tgenre"]
    files: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(options.stories.read_text("utf-8").rstrip("\n").split("\n"), 1):
        try:
            story = json.loads(line)
            group, theme, text = (str(story[key]) for key in ("group", "theme", "text"))
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{options.stories}, line {number}: not a story: {error}") from error
        file = f"{group}/{len(files[group]) + 1:02}.txt"
        files[group].append(file)
        write_text(options.out / file, text + "\n")
        rows.append(f"{file}\t{group}\t{theme}\tprose")
    write_text(options.out / "SOURCES.tsv", "\n".join(rows) + "\n")
    last = list(files.values())[-1]
    split = {"validation": last[:2], "test": last[2:4]}
    write_text(options.out / "split.json", json.dumps(split, indent=1) + "\n")
    print(f"{options.out}: {len(rows) - 1} stories in {len(files)} groups")


if __name__ == "__main__":
    main()
