"""Plots that set finished models side by side: quality, generations, speed of training.

Each function takes the dict of one result file and returns a figure; ``ml.plots`` names them.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ml.plots_style import (
    COLOURS,
    GREY,
    Result,
    colour_each,
    count_axis,
    legend_above,
    new_figure,
    percent_axis,
    short_count,
)

if TYPE_CHECKING:
    from ml.plots_style import Figure

KINDS = {
    "ngram": ("n-gram", COLOURS[3]),
    "char": ("over characters", COLOURS[4]),
    "character": ("over characters", COLOURS[4]),
    "word": ("over words", COLOURS[2]),
    "bpe": ("over BPE", COLOURS[0]),
    "gpt": ("GPT", COLOURS[1]),
}

Row = Mapping[str, Any]


def draw_baselines(result: Result) -> "Figure":
    """A bar a model, the best on top, its parameters and minutes beside it."""
    models = sorted(result["models"], key=lambda model: model["bits_per_character"]["test"])
    figure, (axes,) = new_figure(height=1.5 + 0.3 * len(models))
    for place, model in enumerate(models):
        label, colour = KINDS.get(model["kind"], (model["kind"], GREY))
        bits = model["bits_per_character"]["test"]
        bar = axes.barh(place, bits, color=colour, height=0.7, label=label)
        minutes = model["minutes"]
        time = f"{minutes:,.0f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
        text = f"{bits:.2f}   {short_count(model['parameters'])} parameters, {time}"
        axes.bar_label(bar, [text], padding=4, fontsize=8)
    axes.set_yticks(range(len(models)), [model["name"] for model in models])
    axes.invert_yaxis()
    axes.margins(x=0.36)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("bits per character on the test works (less is better)")
    axes.set_title("All models on the same held-out works of Pushkin", pad=22)
    legend_above(axes, columns=5)
    return figure


def draw_ablations(result: Result) -> "Figure":
    """A mark a variant of one recipe at the same compute, the best on top; 0 is not shown."""
    runs = sorted(result["runs"], key=lambda run: run["bits_per_character"])
    figure, (axes,) = new_figure(height=1.3 + 0.3 * len(runs))
    for place, run in enumerate(runs):
        bits = run["bits_per_character"]
        axes.plot(bits, place, "o", color=COLOURS[0], markersize=7)
        size = f"{short_count(run['parameters'])} parameters, {run['seconds'] / 60:,.0f} min"
        text = f"{bits:.3f}   {size}"
        where: Any = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(text, (bits, place), (9, 0), **where)
    axes.set_yticks(range(len(runs)), [run["name"] for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.5 * (high - low))  # room for the last text
    axes.set_xlabel("bits per character, validation (less is better)")
    axes.set_title("Variants of one recipe at the same compute")
    return figure


# A panel of evaluate.json: the figure's name, the label, is it a share (written as percent).
_PANELS = [
    ("bits_per_character", "bits per character, test\n(less is better)", False),
    ("repeated_4grams", "repeated 4-grams, %\n(less is better)", True),
    ("attributed_to_pushkin", "attributed to Pushkin, %\n(more is better)", True),
    ("verbatim_under_80", "no verbatim run over\n80 characters, %", True),
    ("sentence_end", "end with a sentence, %\n(more is better)", True),
    ("mattr", "lexical variety, MATTR\n(distinct of all words)", False),
    ("delta", "Burrows's Delta\n(less: closer to Pushkin)", False),
]


def draw_evaluate(result: Result) -> "Figure":
    """A panel a figure, a bar a model; a model that wrote nothing has no bar."""
    models = result["models"]
    figure, axes = new_figure(2, 4, height=2.2 + 0.5 * len(models), sharey=True)
    colours = [colour for colour, _ in colour_each(models)]
    figures = [
        {
            **(model.get("generations") or {}),
            "bits_per_character": model["bits_per_character"]["test"],
        }
        for model in models
    ]
    for panel, (key, label, is_share) in zip(axes, _PANELS, strict=False):
        values = [found.get(key) for found in figures]
        bars = panel.barh(range(len(models)), [value or 0 for value in values], color=colours)
        write = "{:.1%}" if is_share else "{:.2f}"
        texts = ["–" if value is None else write.format(value) for value in values]
        panel.bar_label(bars, texts, padding=3, fontsize=8)
        panel.margins(x=0.45)
        panel.grid(visible=False, axis="y")
        panel.set_xlabel(label, fontsize=8.5)
        if is_share:
            percent_axis(panel.xaxis)
    for panel in axes[len(_PANELS) :]:
        panel.set_visible(False)
    axes[0].set_yticks(range(len(models)), [model["name"] for model in models])
    axes[0].invert_yaxis()
    figure.suptitle("What the models write", x=0.01, ha="left", fontsize=10)
    return figure


def draw_bench_training(result: Result) -> "Figure":
    """Left against the model's size, right against the context; above speed, below the ratio."""
    figure, axes = new_figure(2, 2, height=6.2, sharex="col", sharey="row")
    rows = result["rows"]
    for column, (key, x) in enumerate((("context", "parameters"), ("width", "context"))):
        speed, ratio = axes[column], axes[2 + column]
        groups = _group(rows, key)  # by width: positions make the parameters grow with the context
        for colour, (value, group) in colour_each(groups.items()):
            name = f"{key} {value}"
            group = sorted(group, key=lambda row: row[x])
            at = [row[x] for row in group]
            style: Any = {"color": colour, "marker": "o"}
            speed.plot(at, [row["ours"] for row in group], label=name, **style)
            speed.plot(at, [row["trainer"] for row in group], linestyle="--", **style)
            ratio.plot(at, [row["ratio"] for row in group], **style)
        for one in (speed, ratio):
            one.set_xscale("log")
        ticks = sorted({row[x] for group in groups.values() for row in group})
        write = short_count if x == "parameters" else "{:,}".format
        ratio.set_xticks(ticks, [write(tick) for tick in ticks])
        ratio.set_xticks([], minor=True)
        ratio.axhline(1, color=GREY, linestyle=":", linewidth=1.3)
        legend_above(speed)
    count_axis(axes[0].yaxis)
    axes[0].set_ylabel("training speed, tokens per second\nsolid: ours, dashed: Trainer")
    axes[2].set_ylabel("ours ÷ Trainer, times\ndotted: as fast")
    axes[2].set_xlabel("size of the model, parameters")
    axes[3].set_xlabel("context, tokens")
    figure.suptitle(
        "Training throughput: our loop and transformers' Trainer", x=0.01, ha="left", fontsize=10
    )
    return figure


def _group(rows: Iterable[Row], key: str) -> dict[int, list[Row]]:
    """Gather the rows by value of ``key``: those values that more than one row has, if any."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[key]):
        groups.setdefault(row[key], []).append(row)
    lines = {value: group for value, group in groups.items() if len(group) > 1}
    return lines or groups
