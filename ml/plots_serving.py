"""Plots of serving: how fast the engines write, and how that changes as work grows.

Each function takes the dict of one result file and returns a figure; ``ml.plots`` names them.
A single reader is bounded by the bandwidth of the memory: each token takes all weights to read.
Many are by multiplication: in fp32, which int8 passes where a processor has instructions for it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml.plots_style import (
    COLOURS,
    GREY,
    Result,
    colour_each,
    count_axis,
    legend_below,
    new_figure,
)

if TYPE_CHECKING:
    from ml.plots_style import Axes, Figure

Row = Mapping[str, Any]

NAMES = {
    "ours": "OpenVINO engine, int8",
    "int4": "OpenVINO engine, int4",
    "bare": "OpenVINO GenAI as it comes, int8",
    "ct2": "CTranslate2, int8",
    "torch": "torch engine, fp32",
    "batch": "transformers, static batch",
    "one": "transformers, fp32, one at a time",
    "vllm": "vLLM, bf16",
}
LIMIT = "limit: int8 weights are read once a step"
IN_FP32 = "limit in fp32: multiplication"
GROWING = {"readers": "readers at once", "prompt": "opening, tokens", "story": "story, tokens"}


def draw_bench_engines(result: Result) -> "Figure":
    """Left tokens a second, right the first token's seconds, by readers; a line an engine."""
    figure, (speed, first) = new_figure(columns=2, height=4.8)
    readers = sorted({level["readers"] for row in result["contestants"] for level in row["levels"]})
    for colour, row in colour_each(result["contestants"]):
        levels = row["levels"]
        at = [level["readers"] for level in levels]
        speeds = [level["speed"] for level in levels]
        style: Any = {"color": colour, "marker": "o", "label": NAMES.get(row["name"], row["name"])}
        if at == [1]:  # it writes one story at a time, however many wait
            speed.plot(readers, speeds * len(readers), **style)
        else:
            speed.plot(at, speeds, **style)
        first.plot(at, [level["first_p95"] for level in levels], **style)
    limits = {row["name"]: row["limit_tokens_per_second"] for row in result["contestants"]}
    _draw_limit(speed, readers, [limits.get("ours", max(limits.values())) * n for n in readers])
    _draw_fp32(speed, result)
    _by_readers([speed, first], readers)
    speed.set_yscale("log")
    count_axis(speed.yaxis, log=True)
    first.set_ylim(bottom=0)
    speed.set_ylabel("all stories together, tokens per second")
    first.set_ylabel("until the first token, seconds (95 % of the stories)")
    legend_below(figure, [speed], columns=2)
    return figure


def draw_bench_engines_grow(result: Result) -> "Figure":
    """A column for what grows: above tokens a second with the limit, below the first token."""
    figure, axes = new_figure(2, len(GROWING), height=5.6, sharex="col")
    (row,) = result["contestants"]
    for column, (key, label) in enumerate(GROWING.items()):
        levels = _alone(row["levels"], key)
        at = [level[key] for level in levels]
        speed, first = axes[column], axes[len(GROWING) + column]
        style: Any = {"color": COLOURS[0], "marker": "o", "label": NAMES["ours"]}
        speed.plot(at, [level["speed"] for level in levels], **style)
        first.plot(at, [level["first_p50"] for level in levels], **style)
        limit = row["limit_tokens_per_second"]
        _draw_limit(speed, at, [limit * (n if key == "readers" else 1) for n in at])
        _draw_fp32(speed, result)
        for one in (speed, first):
            one.set_ylim(bottom=0)
        if key == "readers":
            most = max(level["speed"] for level in levels)
            speed.set_ylim(0, max(1.5 * most, 1.1 * result["fp32_tokens_per_second"]))
        first.set_xlabel(label)
        count_axis(first.xaxis)
    axes[0].set_ylabel("tokens per second")
    axes[len(GROWING)].set_ylabel("until the first token, seconds")
    legend_below(figure, axes)
    return figure


def _alone(levels: Sequence[Row], key: str) -> list[Row]:
    """Return the measurements in which only ``key`` differs from what is usual."""
    usual = {"readers": 1, "prompt": 25, "story": 48}
    others = [(name, value) for name, value in usual.items() if name != key]
    found = [level for level in levels if all(level[name] == value for name, value in others)]
    return sorted(found, key=lambda level: level[key])


def _draw_limit(axes: "Axes", at: Sequence[int], limits: Sequence[float]) -> None:
    axes.plot(at, limits, color=GREY, linestyle="--", linewidth=1.1, label=LIMIT)


def _draw_fp32(axes: "Axes", result: Result) -> None:
    limit = result["fp32_tokens_per_second"]
    axes.axhline(limit, color=GREY, linestyle=":", linewidth=1.1, label=IN_FP32)


def _by_readers(axes: Sequence["Axes"], readers: Sequence[int]) -> None:
    for one in axes:
        one.set_xscale("log")
        one.set_xticks(readers, [str(n) for n in readers])
        one.set_xticks([], minor=True)
        one.set_xlabel("readers at once")
