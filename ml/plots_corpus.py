"""Plots of texts: rank and frequency, lemmatisation, lengths, the tokenizer's size, authors.

Each function takes the dict of one result file and returns a figure; ``ml.plots`` names them.
"""

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ml.plots_style import (
    COLOURS,
    GREY,
    Result,
    colour_each,
    count_axis,
    legend_below,
    mark_level,
    new_figure,
    percent_axis,
)

if TYPE_CHECKING:
    from ml.plots_style import Axes, Figure

# The first project's choice: 91.2 % of its tokens occurred at least 1000 times.
SEED_VOCABULARY, SEED_SHARE = 1_410, 0.912


def _draw_rank_frequency(kind: str, result: Result) -> "Figure":
    figure, (axes,) = new_figure(height=4.6)
    for colour, (name, kinds) in colour_each(result["samples"].items()):
        found = kinds[kind]
        label = (
            f"{name}: {found['distinct']:,} distinct, "
            f"{found['share_frequent']:.1%} of them at or above the threshold"
        )
        axes.plot(*zip(*found["rank_frequency"], strict=True), color=colour, label=label)
    _dress_ranks(axes, result, kind)
    axes.set_title(f"Rank and frequency of {kind}: samples of {result['words_a_sample']:,} words")
    legend_below(figure, [axes], columns=1)
    return figure


draw_rank_frequency_words = partial(_draw_rank_frequency, "words")
draw_rank_frequency_lemmas = partial(_draw_rank_frequency, "lemmas")
draw_rank_frequency_tokens = partial(_draw_rank_frequency, "tokens")


def _dress_ranks(axes: "Axes", result: Result, kind: str) -> None:
    threshold = result["threshold"]
    mark_level(axes, threshold, f"threshold: {threshold} occurrences")
    axes.set(xscale="log", yscale="log")
    count_axis(axes.xaxis, log=True)
    count_axis(axes.yaxis, log=True)
    axes.set_xlabel(f"rank of the {kind}, the most frequent first")
    axes.set_ylabel("frequency, occurrences in the sample")


def draw_lemmatisation(result: Result) -> "Figure":
    """Left the curves of words and lemmas, right the shares of frequent ones."""
    figure, (curves, bars) = new_figure(columns=2, width_ratios=(3, 2))
    kinds = ("words", "lemmas")
    samples = result["samples"]
    for colour, (name, found) in colour_each(samples.items()):
        for kind, line in zip(kinds, ("-", ":"), strict=True):
            points = zip(*found[kind]["rank_frequency"], strict=True)
            curves.plot(*points, color=colour, linestyle=line, label=f"{name}: {kind}")
    _dress_ranks(curves, result, "words or lemmas")
    curves.set_title("Before and after lemmatisation")
    width = 0.8 / len(samples)
    for number, (colour, (name, found)) in enumerate(colour_each(samples.items())):
        places = [place + width * number for place in range(len(kinds))]
        shares = [found[kind]["share_frequent"] for kind in kinds]
        ranges = [found[kind]["share_frequent_range"] for kind in kinds]
        drawn = bars.bar(places, shares, width * 0.92, color=colour, label=name)
        middles = [(low + high) / 2 for low, high in ranges]
        halves = [(high - low) / 2 for low, high in ranges]
        bars.errorbar(places, middles, halves, fmt="none", ecolor="black", capsize=4, linewidth=1)
        labels = [
            f"{s:.1%}\nof {found[k]['distinct']:,}" for s, k in zip(shares, kinds, strict=True)
        ]
        bars.bar_label(drawn, labels, label_type="center", color="white", fontsize=8)
    bars.set_xticks([place + width * (len(samples) - 1) / 2 for place in range(len(kinds))], kinds)
    bars.margins(y=0.08)
    bars.grid(visible=False, axis="x")
    percent_axis(bars.yaxis)
    bars.set_ylabel(f"share of distinct units occurring ≥ {result['threshold']} times, %")
    bars.set_title(f"{result['words_a_sample']:,} words; line: other draws")
    legend_below(figure, [curves], columns=3)
    return figure


def draw_text_lengths(result: Result) -> "Figure":
    lengths = result["text_lengths"]
    figure, (axes,) = new_figure(height=4)
    for colour, stage in colour_each(("before", "after")):
        if stage in lengths:
            found = lengths[stage]
            label = f"{stage} the filter: {found['texts']:,} texts"
            counts, edges = found["counts"], lengths["edges"]
            if stage == "before":
                axes.stairs(counts, edges, color=colour, fill=True, alpha=0.25)
            axes.stairs(counts, edges, color=colour, linewidth=1.6, label=label)
    axes.set_xlabel("length of a text, characters")
    axes.set_ylabel("number of texts")
    count_axis(axes.xaxis)
    axes.set_title(f"Lengths of the texts: {lengths['corpus']}")
    legend_below(figure, [axes])
    return figure


def draw_window_lengths(result: Result) -> "Figure":
    windows = result["windows"]
    figure, (axes,) = new_figure(height=4)
    for colour, (name, found) in colour_each(windows["corpora"].items()):
        shares = np.array(found["counts"]) / sum(found["counts"])
        label = (
            f"{name}: {found['windows']:,} windows, {found['padding']:.1%} padding; "
            f"packed into one stream: {found['packed_windows']:,}, all full but the last"
        )
        axes.stairs(shares, windows["edges"], color=colour, linewidth=1.6, label=label)
        axes.stairs(shares, windows["edges"], color=colour, fill=True, alpha=0.2)
    percent_axis(axes.yaxis)
    axes.set_xlabel("length of a window, tokens")
    axes.set_ylabel("share of the windows, %")
    axes.set_title(f"Windows of at most {windows['length']} tokens, a new one for every text")
    legend_below(figure, [axes], columns=1)
    return figure


def draw_tokenizer_sweep(result: Result) -> "Figure":
    """Above the first project's criterion for several k, below the fair one."""
    figure, (shares, quality) = new_figure(2, height=6.2, sharex=True)
    rows = sorted(result["rows"], key=lambda row: row["vocabulary"])
    sizes = [row["vocabulary"] for row in rows]
    for colour, k in colour_each(result["thresholds"]):
        curve = [row["share"][str(k)] for row in rows]
        label = f"occurring ≥ k = {k:,} times"
        shares.plot(sizes, curve, color=colour, marker="o", label=label)
        knee = _falls_below(sizes, curve, SEED_SHARE)
        if knee is not None:
            shares.plot(knee, SEED_SHARE, "o", color=colour, markersize=11, fillstyle="none")
            text = f"{knee:,.0f}"
            shares.annotate(text, (knee, SEED_SHARE), (8, 5), textcoords="offset points")
    mark_level(shares, SEED_SHARE, f"{SEED_SHARE:.1%}, the share at its choice")
    percent_axis(shares.yaxis)
    shares.set_ylabel("share of the tokens, %")
    shares.set_title("The first project's criterion: where the share falls is a matter of k")
    measured = [row for row in rows if row["bits_per_character"] is not None]
    quality.plot(
        [row["vocabulary"] for row in measured],
        [row["bits_per_character"] for row in measured],
        color=COLOURS[6],
        marker="s",
        label="small model, the same compute at each size",
    )
    quality.set_ylabel("bits per character, validation")
    quality.set_title("The fair criterion: the lower the better")
    for axes in (shares, quality):
        label = f"the first project's choice, {SEED_VOCABULARY:,}"
        axes.axvline(SEED_VOCABULARY, color=GREY, linestyle=":", linewidth=1.4, label=label)
        axes.set_xscale("log")
    count_axis(quality.xaxis, log=True)
    quality.set_xlabel("vocabulary size, tokens")
    legend_below(figure, [shares, quality], columns=3)
    return figure


def _falls_below(sizes: list[int], curve: list[float], level: float) -> float | None:
    """Return the size, between two measured ones, at which the curve falls below the level."""
    for (left, high), (right, low) in pairwise(zip(sizes, curve, strict=True)):
        if high >= level > low:
            return left + (right - left) * (high - level) / (high - low)
    return None


def draw_authors_confusion(result: Result) -> "Figure":
    """A row an author, a column a verdict; the colour is the share of the row."""
    result = result.get("classifier", result)
    confusion = result["confusion"]
    authors = list(confusion)
    verdicts = [*authors, *sorted({v for row in confusion.values() for v in row} - set(authors))]
    counts = np.array([[confusion[a].get(v, 0) for v in verdicts] for a in authors])
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    figure, (axes,) = new_figure(height=2.2 + 0.3 * len(authors))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{counts[row, column]:,}" if counts[row, column] else ""
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    angle = {"rotation": 90, "va": "center"} if len(verdicts) > 10 else {"rotation": 30}
    axes.set_xticks(range(len(verdicts)), verdicts, ha="right", rotation_mode="anchor", **angle)
    axes.set_yticks(range(len(authors)), authors)
    axes.grid(visible=False)
    axes.set_xlabel("attributed to")
    axes.set_ylabel("written by")
    accuracy = result.get("accuracy")
    figures = "" if accuracy is None else f": accuracy {accuracy:.1%}"
    axes.set_title(f"The author classifier on held-out works{figures}")
    bar = figure.colorbar(image, ax=axes, label="share of the author's pieces, %")
    percent_axis(bar.ax.yaxis)
    return figure
