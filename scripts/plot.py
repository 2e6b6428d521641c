"""Draw the plots of the report from the results on disk.

python -m scripts.plot [NAME…] [--results docs/experiments/results] [--out docs/experiments/plots]

Without names, all. A plot whose result is missing is skipped, with the command that makes it.
"""

import argparse
from pathlib import Path

from ml import results
from ml.plots import PLOTS, MissingResultError, PlotError, write_plot


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PLOTS))
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--out", type=Path, default=results.FOLDER.with_name("plots"))
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in PLOTS]
    if unknown:
        raise SystemExit(f"no such plot: {', '.join(unknown)}; there are: {', '.join(PLOTS)}")

    broken = []
    for name in options.names or PLOTS:
        try:
            print(write_plot(name, options.results, options.out))
        except MissingResultError as error:
            print(f"{name} skipped: {error}")
        except PlotError as error:
            broken.append(str(error))
    if broken:
        raise SystemExit("\n".join(dict.fromkeys(broken)))


if __name__ == "__main__":
    main()
