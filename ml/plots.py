"""The plots of the report: each by name from one result on disk, and nothing else.

    write_plot("baselines", Path("docs/experiments/results"), Path("docs/experiments/plots"))

What they show stands in ``plots_corpus``, ``plots_training``, ``plots_models`` and
``plots_serving``, how they look in ``plots_style``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml import plots_corpus, plots_models, plots_serving, plots_training
from ml.plots_style import Result, common_style, write_png

if TYPE_CHECKING:
    from ml.plots_style import Figure


class PlotError(Exception):
    """A result that cannot be drawn: the message names the file and what is wrong."""


class MissingResultError(PlotError):
    """A result that is not there yet: the message names the command that makes it."""


@dataclass(frozen=True)
class Source:
    """A result file and the command that writes it."""

    file: str
    command: str


@dataclass(frozen=True)
class Plot:
    source: Source
    draw: Callable[[Result], "Figure"]


_FREQUENCY = Source("frequency.json", "python -m scripts.count_words CORPUS")
_SEARCH = Source("search.json", "python -m scripts.search_baselines CORPUS")
_STUDY = "python -m scripts.study_mini CORPUS --study"
_BASELINES = Source("baselines.json", "python -m scripts.train_baselines CORPUS")

PLOTS = {
    "rank_frequency_words": Plot(_FREQUENCY, plots_corpus.draw_rank_frequency_words),
    "rank_frequency_lemmas": Plot(_FREQUENCY, plots_corpus.draw_rank_frequency_lemmas),
    "rank_frequency_tokens": Plot(_FREQUENCY, plots_corpus.draw_rank_frequency_tokens),
    "lemmatisation": Plot(_FREQUENCY, plots_corpus.draw_lemmatisation),
    "text_lengths": Plot(_FREQUENCY, plots_corpus.draw_text_lengths),
    "window_lengths": Plot(_FREQUENCY, plots_corpus.draw_window_lengths),
    "tokenizer_sweep": Plot(
        Source("tokenizer_sweep.json", "python -m scripts.train_tokenizer CORPUS --sweep"),
        plots_corpus.draw_tokenizer_sweep,
    ),
    "authors_confusion": Plot(
        Source("authors.json", "python -m scripts.score_texts --corpus CORPUS"),
        plots_corpus.draw_authors_confusion,
    ),
    "search_curves": Plot(_SEARCH, plots_training.draw_search_curves),
    "search_final": Plot(_SEARCH, plots_training.draw_search_final),
    "autopsy": Plot(
        Source("autopsy.json", "python -m scripts.autopsy CORPUS"), plots_training.draw_autopsy
    ),
    "character_models": Plot(_BASELINES, plots_training.draw_character_models),
    "baselines": Plot(_BASELINES, plots_models.draw_baselines),
    "scaling": Plot(
        Source("scaling.json", f"{_STUDY} scripts/recipes/scaling.json"),
        plots_training.draw_scaling,
    ),
    "ablations": Plot(
        Source("ablations.json", f"{_STUDY} scripts/recipes/ablations.json"),
        plots_models.draw_ablations,
    ),
    "mini_training": Plot(
        Source("mini_runs.json", "python -m scripts.train_mini CORPUS --result …/mini_runs.json"),
        plots_training.draw_mini_training,
    ),
    "finetuning": Plot(
        Source("finetuning.json", "python -m scripts.study_finetune CORPUS --base MODEL"),
        plots_training.draw_finetuning,
    ),
    "bench_training": Plot(
        Source("bench_training.json", "python -m scripts.bench_training CORPUS"),
        plots_models.draw_bench_training,
    ),
    "bench_engines": Plot(
        Source("bench_engines.json", "python -m scripts.bench_engines"),
        plots_serving.draw_bench_engines,
    ),
    "bench_engines_grow": Plot(
        Source("bench_engines_grow.json", "python -m scripts.bench_engines --grow"),
        plots_serving.draw_bench_engines_grow,
    ),
    "evaluate": Plot(
        Source("evaluate.json", "python -m scripts.evaluate MODEL… --corpus CORPUS"),
        plots_models.draw_evaluate,
    ),
}


def write_losses(curves: Result, path: Path) -> None:
    """Draw a retraining's ``curves``: steps and losses of ``sft`` and of ``preference``."""
    with common_style():
        write_png(plots_training.draw_losses(curves), path)


def write_plot(name: str, results: Path, out: Path) -> Path:
    """Draw one plot into ``out/name.png`` and return its path.

    Raises MissingResultError if its result is not in ``results``, PlotError if it is broken.
    """
    plot = PLOTS[name]
    result = read_result(results, plot.source)
    path = out / f"{name}.png"
    with common_style():
        try:
            figure = plot.draw(result)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise PlotError(
                f"{results / plot.source.file}: not what {name} draws ({what})"
            ) from error
        write_png(figure, path)
    return path


def read_result(folder: Path, source: Source) -> Result:
    path = folder / source.file
    try:
        result = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise MissingResultError(f"{path} is missing; it comes from: {source.command}") from error
    except (OSError, ValueError) as error:  # not JSON, not UTF-8
        raise PlotError(f"{path}: {error}") from error
    if not isinstance(result, dict):
        raise PlotError(f"{path}: not a JSON object")
    return result
