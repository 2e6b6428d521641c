"""Plots of training: losses and perplexities by steps, tokens or compute; search; autopsy.

Each function takes the dict of one result file and returns a figure; ``ml.plots`` names them.
"loss" is in nats a token of the model's own tokenizer, "validation" in bits per character.
"""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.plots_style import (
    COLOURS,
    GREY,
    Result,
    colour_each,
    count_axis,
    legend_below,
    line_each,
    mark_level,
    new_figure,
    points,
    short_count,
)

if TYPE_CHECKING:
    from ml.plots_style import Axes, Figure

CHARACTER_KINDS = ("char", "character")
FAMILIES = ("linear", "rnn", "gru", "lstm")
RANGES = {"seed": ("the first project's", COLOURS[1]), "sane": ("sane", COLOURS[0])}


def draw_search_curves(result: Result) -> "Figure":
    """A column a family: above the validation, below the training loss with its perplexity."""
    figure, axes = new_figure(2, 4, height=5.2, sharex=True, sharey="row")
    for column, family in enumerate(FAMILIES):
        above, below = axes[column], axes[4 + column]
        trials = [trial for trial in result["trials"] if trial["family"] == family]
        for trial in trials:
            ranges, colour = RANGES[trial["ranges"]]
            style: dict[str, Any] = {
                "color": colour,
                "linewidth": 1,
                "alpha": 0.75,
                "label": f"a trial, {ranges} ranges",
                "marker": "." if len(trial["curve"]) < 2 else None,
            }
            above.plot(*points(trial["curve"], "step", "validation"), **style)
            below.plot(*points(trial["curve"], "step", "loss"), **style)
        _mark_ngrams(above, result)
        above.set_title(
            f"{family.upper() if family != 'linear' else 'Linear'}: {len(trials)} trials"
        )
        below.set_xlabel("training step")
        count_axis(below.xaxis)
    axes[0].set_ylabel("bits per character,\nvalidation")
    axes[4].set_ylabel("training loss,\nnats per token")
    _add_perplexity(axes[7])
    legend_below(figure, axes)
    return figure


def _add_perplexity(axes: "Axes") -> None:
    """Set perplexity per token, exp(loss), on the right of an axes that shows the loss."""
    low, high = axes.get_ylim()
    right = axes.twinx()
    right.set_ylim(low, high)
    values = [d * 10**e for e in range(6) for d in (1, 2, 5) if low <= math.log(d * 10**e) <= high]
    right.set_yticks([math.log(value) for value in values], [short_count(v) for v in values])
    right.grid(visible=False)
    right.set_ylabel("perplexity per token")


def _mark_ngrams(axes: "Axes", result: Result) -> None:
    for name, colour in (("unigram", GREY), ("trigram", COLOURS[6])):
        level = result.get(f"{name}_bits_per_character")
        if level is not None:
            mark_level(axes, level, f"{name}, {level:.2f}", colour)


def draw_search_final(result: Result) -> "Figure":
    """A column a family and range, a mark a trial that ran to its end, the best one named."""
    figure, (axes,) = new_figure(height=4.4)
    finished = [trial for trial in result["trials"] if trial["state"] == "complete"]
    columns = [(family, ranges) for family in FAMILIES for ranges in RANGES]
    ticks = []
    for place, (family, ranges) in enumerate(columns):
        group = [t for t in finished if (t["family"], t["ranges"]) == (family, ranges)]
        found = sorted(trial["bits_per_character"] for trial in group)
        drawn = sum((t["family"], t["ranges"]) == (family, ranges) for t in result["trials"])
        ticks.append(f"{family}\n{RANGES[ranges][0]}\n{len(found)} of {drawn} ended")
        beside = place + np.linspace(-0.22, 0.22, len(found)) if len(found) > 1 else [place]
        if found:
            words, colour = RANGES[ranges]
            axes.plot(beside, found, "o", color=colour, alpha=0.75, label=f"{words} ranges")
            axes.annotate(
                f"{found[0]:.2f}",
                (beside[0], found[0]),
                (0, -14),
                textcoords="offset points",
                ha="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
    _mark_ngrams(axes, result)
    axes.set_xticks(range(len(columns)), ticks, fontsize=8)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)
    axes.set_ylabel("bits per character, validation")
    axes.set_title("Random search: what every trial reached, the best of each column in figures")
    legend_below(figure, [axes])
    return figure


def draw_character_models(result: Result) -> "Figure":
    """The models over characters, where a token is a character: loss and perplexity of one."""
    figure, (loss, perplexity) = new_figure(columns=2, height=4)
    over_characters = [model for model in result["models"] if model["kind"] in CHARACTER_KINDS]
    models = [model for model in over_characters if model["curve"]]
    for colour, model in colour_each(models):
        steps, nats = points(model["curve"], "step", "loss")
        at, bits = points(model["curve"], "step", "validation")
        for axes, training, validation in (
            (loss, nats, [b * math.log(2) for b in bits]),
            (perplexity, [math.exp(value) for value in nats], [2**b for b in bits]),
        ):
            name = model["name"]
            axes.plot(
                steps, training, color=colour, linewidth=0.9, alpha=0.6, label=f"{name}: training"
            )
            axes.plot(at, validation, color=colour, marker="o", label=f"{name}: validation")
    for axes, unit in (
        (loss, "loss, nats per character"),
        (perplexity, "perplexity per character"),
    ):
        axes.set_xlabel("training step")
        axes.set_ylabel(unit)
        count_axis(axes.xaxis)
    perplexity.set_yscale("log")
    count_axis(perplexity.yaxis, log=True)
    loss.set_title("Character models: loss")
    perplexity.set_title("Their perplexity")
    legend_below(figure, [loss])
    return figure


def draw_scaling(result: Result) -> "Figure":
    """Bits per character against compute, a line a size; every point is a whole training."""
    figure, (axes,) = new_figure(height=4.6)
    ends: dict[int, list[tuple[float, float]]] = {}
    for run in result["runs"]:
        end = (run["curve"][-1]["flops"], run["bits_per_character"])
        ends.setdefault(run["parameters"], []).append(end)
    for colour, (size, places) in colour_each(sorted(ends.items())):
        label = f"{short_count(size)} parameters"
        axes.plot(*zip(*sorted(places), strict=True), marker="o", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("training compute, FLOP")
    axes.set_ylabel("bits per character, validation")
    axes.set_title("Scaling: what a whole training reaches for its compute")
    legend_below(figure, [axes], columns=4)
    return figure


def _draw_runs(title: str, x: str, unit: str, result: Result) -> "Figure":
    """Above the training loss, below the validation, by ``x`` in its unit, a colour a run."""
    figure, (loss, validation) = new_figure(2, height=6, sharex=True)
    for style, run in line_each(result["runs"]):
        loss.plot(*points(run["curve"], x, "loss"), linewidth=1, **style)
        tested = run.get("test")
        label = run["name"] if tested is None else f"{run['name']} (test {tested:.3f})"
        measured = points(run["curve"], x, "validation")
        validation.plot(*measured, marker="o", markersize=3, label=label, **style)
    for axes in (loss, validation):
        for number, tokens in enumerate(result.get("stages", [])):
            label = "a stage begins" if number == 0 else None
            axes.axvline(tokens, color=GREY, linestyle=":", linewidth=1.3, label=label)
    loss.set_title(title)
    loss.set_ylabel("training loss, nats per token")
    validation.set_ylabel("bits per character, validation")
    validation.set_xlabel(unit)
    count_axis(validation.xaxis)
    legend_below(figure, [validation], columns=2)
    return figure


draw_mini_training = partial(_draw_runs, "pushkin-mini: the runs", "tokens", "tokens seen")
draw_finetuning = partial(
    _draw_runs,
    "From the century to Pushkin: where over-training begins",
    "epoch",
    "passes over his prose",
)


def draw_losses(curves: Result) -> "Figure":
    """The two trainings of a retraining, each with its own loss."""
    figure, panels = new_figure(columns=2, height=3.4)
    titles = {
        "sft": ("Liked stories", "loss, nats per token"),
        "preference": ("Votes", "loss, 0.5 at the start"),
    }
    for axes, (name, (title, unit)) in zip(panels, titles.items(), strict=True):
        axes.plot([x for x, _ in curves[name]], [y for _, y in curves[name]], marker="o")
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
    return figure


def draw_autopsy(result: Result) -> "Figure":
    """Left what the models learn, right how the first project's metric shows it."""
    figure, (entropy, metric) = new_figure(columns=2, height=4.4)
    names = {"pooled": "pooled over the prefix", "sound": "a sound model"}
    for colour, (key, name) in zip((COLOURS[1], COLOURS[0]), names.items(), strict=True):
        curve = result["curves"][key]
        entropy.plot(*points(curve, "step", "cross_entropy"), color=colour, label=name)
        metric.plot(*points(curve, "step", "perplexity"), color=colour, label=name)
        seed: Any = {
            "color": colour,
            "linestyle": ":",
            "linewidth": 2.2,
            "label": f"{name}: its metric",
        }
        metric.plot(*points(curve, "step", "seed_metric"), **seed)
    mark_level(entropy, result["unigram"], f"left: entropy of a unigram, {result['unigram']:.2f}")
    mark_level(
        metric, result["vocabulary"], f"right: size of the vocabulary, {result['vocabulary']:,}"
    )
    entropy.set_ylabel("cross-entropy, nats per token")
    entropy.set_title("Pooling hides the last token")
    metric.set_yscale("log")
    count_axis(metric.yaxis, log=True)
    metric.set_ylabel(
        "perplexity per token; dotted: the first\nproject's metric, the mean of exp(loss)"
    )
    metric.set_title("The metric that rises as models learn")
    for axes in (entropy, metric):
        axes.set_xlabel("training step")
        count_axis(axes.xaxis)
    legend_below(figure, [metric, entropy], columns=3)
    return figure
