"""How every plot looks, and the only door to matplotlib: figures, axes, legends, PNG.

    with common_style():
        figure, (left, right) = new_figure(columns=2)
        left.plot(steps, losses, color=COLOURS[0])
        write_png(figure, Path("plot.png"))

matplotlib is imported inside the functions: to import it builds a cache of fonts in the home.
"""

import contextlib
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

T = TypeVar("T")
Result = Mapping[str, Any]  # a JSON file of docs/experiments/results

WIDTH, DPI = 8.2, 110  # inches and dots an inch: 902 pixels, the width of a README
# Told apart by colour-blind readers: M. Okabe, K. Ito, "Color universal design", 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b6b6b"

_STYLE = {
    "figure.dpi": DPI,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the bytes do not depend on the host
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@contextlib.contextmanager
def common_style() -> Iterator[None]:
    """Draw and save inside: matplotlib's defaults and ours, whatever the reader has set."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def new_figure(
    rows: int = 1, columns: int = 1, *, height: float = 4.4, **options: Any
) -> tuple["Figure", list["Axes"]]:
    """Return a figure, ``height`` inches high, and its axes row by row.

    ``options`` are those of ``Figure.subplots``, such as ``sharey``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def colour_each(items: Iterable[T]) -> Iterator[tuple[str, T]]:
    """Yield each item with its colour; past the last colour they begin anew."""
    return zip(itertools.cycle(COLOURS), items, strict=False)


def line_each(items: Iterable[T]) -> Iterator[tuple[dict[str, Any], T]]:
    """Yield each item with the colour and the dashes of its line, both as ``plot`` takes them."""
    styles = itertools.product(("-", "--", ":", "-."), COLOURS)
    for (dashes, colour), item in zip(itertools.cycle(styles), items, strict=False):
        yield {"color": colour, "linestyle": dashes}, item


def legend_below(figure: "Figure", axes: Iterable["Axes"], columns: int = 4) -> None:
    """Set one legend for all the axes under them, where it covers no curve."""
    entries = _entries(axes)
    if entries:
        place: Any = {"loc": "outside lower center", "ncols": min(columns, len(entries))}
        figure.legend(list(entries.values()), list(entries), **place)


def legend_above(axes: "Axes", columns: int = 2) -> None:
    """Set the axes' own legend above its frame."""
    entries = _entries([axes])
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(list(entries.values()), list(entries), ncols=columns, **place)


def _entries(axes: Iterable["Axes"]) -> dict[str, Any]:
    """Return each label once with its first mark."""
    entries: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return entries


def count_axis(axis: "Axis", *, log: bool = False) -> None:
    """Write counts as 500, 8k, 14M; on a logarithmic axis at 1, 2, 5, 10, or 1, 10 if it is long.

    Call it when the curves are drawn.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.set_major_formatter(EngFormatter(sep=""))
    if log:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def percent_axis(axis: "Axis") -> None:
    """Write shares of one as percent."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


def mark_level(axes: "Axes", level: float, text: str, colour: str = GREY) -> None:
    """Draw a dashed horizontal line across and name it in the legend."""
    axes.axhline(level, color=colour, linestyle="--", linewidth=1.1, label=text, zorder=1.5)


def short_count(number: float) -> str:
    """Return 8192 as "8.2k", 14_000_000 as "14M"."""
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + sign
    return f"{number:g}"


def points(curve: Iterable[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """Return the two coordinates of a curve where both were measured and are finite."""
    pairs = [(step[x], step[y]) for step in curve if step.get(y) is not None]
    pairs = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def write_png(figure: "Figure", path: Path) -> None:
    """Write the figure whole or not at all; the same figure gives the same bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(picture.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
