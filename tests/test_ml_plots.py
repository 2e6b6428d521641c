"""Every plot from a small made-up result: its curves, its labels, its bytes."""

import copy
import functools
import math
from pathlib import Path
from typing import Any

import pytest

from ml.plots import PLOTS, MissingResultError, PlotError, write_plot
from ml.plots_style import (
    COLOURS,
    colour_each,
    common_style,
    line_each,
    new_figure,
    points,
    short_count,
    write_png,
)
from tests.plot_results import RESULTS, write_results

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every plot."""
    folder = tmp_path_factory.mktemp("plots")
    results = write_results(folder / "results")
    for name in PLOTS:
        write_plot(name, results, folder / "plots")
    return folder / "plots"


@functools.cache
def draw(name: str) -> Any:  # a Figure; Any, for its stubs know little of what stands in it
    plot = PLOTS[name]
    with common_style():
        return plot.draw(RESULTS[plot.source.file])


def panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def curves(axes: Any) -> list[tuple[list[float], list[float]]]:
    """Return the lines drawn in data coordinates: no levels, no marked places."""
    lines = [line for line in axes.lines if line.get_transform() == axes.transData]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def legend_texts(figure: Any) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def marks(figure: Any) -> str:
    """Return all that the data shape, as one text: lines, bars, cells, labels."""
    found: list[Any] = legend_texts(figure)
    for axes in figure.axes:
        found += [(axes.get_title(loc="left"), axes.get_xlim(), axes.get_ylim())]
        found += [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        found += [patch.get_extents().bounds for patch in axes.patches]
        found += [patch.get_path().vertices.tolist() for patch in axes.patches]
        found += [text.get_text() for text in axes.texts]
        found += [image.get_array().tolist() for image in axes.images]
    return repr(found)


# What must stand on the axes: parts of the x labels and of the y labels, panel by panel.
AXES = {
    "rank_frequency_words": [("rank of the words", "occurrences")],
    "rank_frequency_lemmas": [("rank of the lemmas", "occurrences")],
    "rank_frequency_tokens": [("rank of the tokens", "occurrences")],
    "lemmatisation": [("rank of the words or lemmas", "occurrences"), ("", "%")],
    "text_lengths": [("characters", "number of texts")],
    "window_lengths": [("tokens", "%")],
    "tokenizer_sweep": [("", "%"), ("vocabulary size, tokens", "bits per character")],
    "authors_confusion": [("attributed to", "written by"), ("", "%")],
    "search_curves": [
        ("", "bits per character"),
        *[("", "")] * 3,
        ("training step", "nats per token"),
        *[("training step", "")] * 3,
        ("", "perplexity per token"),
    ],
    "search_final": [("", "bits per character")],
    "autopsy": [("training step", "nats per token"), ("training step", "perplexity per token")],
    "character_models": [
        ("training step", "nats per character"),
        ("training step", "perplexity per character"),
    ],
    "baselines": [("bits per character", "")],
    "scaling": [("training compute, FLOP", "bits per character")],
    "ablations": [("bits per character", "")],
    "mini_training": [("", "nats per token"), ("tokens seen", "bits per character")],
    "finetuning": [("", "nats per token"), ("passes over", "bits per character")],
    "bench_training": [
        ("", "tokens per second"),
        ("", ""),
        ("parameters", "times"),
        ("context, tokens", ""),
    ],
    "bench_engines": [("readers at once", "tokens per second"), ("readers", "seconds")],
    "bench_engines_grow": [
        ("", "tokens per second"),
        *[("", "")] * 2,
        ("readers at once", "seconds"),
        ("opening, tokens", ""),
        ("story, tokens", ""),
    ],
    "evaluate": [
        ("bits per character", ""),
        ("repeated 4-grams, %", ""),
        ("attributed to Pushkin, %", ""),
        ("80 characters, %", ""),
        ("end with a sentence, %", ""),
        ("MATTR", ""),
        ("Delta", ""),
    ],
}


@pytest.mark.parametrize("name", PLOTS)
def test_axes_carry_labels_with_units(name: str) -> None:
    found = panels(draw(name))
    assert len(found) == len(AXES[name])
    for axes, (x, y) in zip(found, AXES[name], strict=True):
        assert x in axes.get_xlabel()
        assert bool(x) == bool(axes.get_xlabel())
        assert y in axes.get_ylabel()
        assert bool(y) == bool(axes.get_ylabel())


# Curves in data coordinates, panel by panel.
LINES = {
    "rank_frequency_words": [2],
    "lemmatisation": [4, 4],  # right: the ends of two error bars
    "tokenizer_sweep": [3 + 2, 1],  # two of the three curves cross the level: a ring each
    "search_curves": [1, 0, 3, 1, 1, 0, 3, 1, 0],
    "search_final": [3],
    "autopsy": [2, 4],
    "character_models": [4, 4],
    "scaling": [2],
    "mini_training": [9, 9],
    "finetuning": [1, 1],
    "bench_training": [2, 2, 1, 1],
    "bench_engines": [3 + 1, 3],  # and the limit
    "bench_engines_grow": [2, 2, 2, 1, 1, 1],
}


@pytest.mark.parametrize("name", LINES)
def test_as_many_lines_as_the_data_has(name: str) -> None:
    drawn = [[line for line in curves(axes) if line[0]] for axes in panels(draw(name))]
    assert [len(lines) for lines in drawn] == LINES[name]


# Where in its result one value is changed, and the value.
CHANGES: dict[str, tuple[list[Any], Any]] = {
    "rank_frequency_words": (["samples", "stories", "words", "rank_frequency", 1, 1], 77),
    "rank_frequency_lemmas": (["samples", "Pushkin", "lemmas", "distinct"], 321),
    "rank_frequency_tokens": (["threshold"], 20),
    "lemmatisation": (["samples", "Pushkin", "lemmas", "share_frequent"], 0.3),
    "text_lengths": (["text_lengths", "after", "counts", 1], 1),
    "window_lengths": (["windows", "corpora", "stories", "counts", 0], 5),
    "tokenizer_sweep": (["rows", 2, "bits_per_character"], 2.5),
    "authors_confusion": (["classifier", "confusion", "gogol", "aksakov"], 6),
    "search_curves": (["trials", 0, "curve", 3, "validation"], 3.9),
    "search_final": (["trials", 2, "bits_per_character"], 2.35),
    "autopsy": (["curves", "sound", 1, "seed_metric"], 400.0),
    "character_models": (["models", 0, "curve", 2, "loss"], 1.7),
    "baselines": (["models", 1, "bits_per_character", "test"], 2.15),
    "scaling": (["runs", 1, "bits_per_character"], 1.5),
    "ablations": (["runs", 0, "bits_per_character"], 1.8),
    "mini_training": (["stages", 0], 300),
    "finetuning": (["runs", 0, "test"], 1.5),
    "bench_training": (["rows", 0, "trainer"], 1100.0),
    "bench_engines": (["contestants", 2, "levels", 0, "speed"], 9.0),
    "bench_engines_grow": (["contestants", 0, "limit_tokens_per_second"], 120.0),
    "evaluate": (["models", 1, "generations", "delta"], 1.14),
}


def changed(name: str) -> dict[str, Any]:
    result = copy.deepcopy(RESULTS[PLOTS[name].source.file])
    (*way, last), value = CHANGES[name]
    place: Any = result
    for key in way:
        place = place[key]
    assert place[last] != value
    place[last] = value
    return result


@pytest.mark.parametrize("name", PLOTS)
def test_changed_value_changes_the_plot(name: str) -> None:
    with common_style():
        another = PLOTS[name].draw(changed(name))
    assert marks(another) != marks(draw(name))


def test_every_plot_is_written_at_the_width_of_a_readme(written: Path) -> None:
    assert sorted(file.name for file in written.iterdir()) == sorted(f"{n}.png" for n in PLOTS)
    for file in written.iterdir():
        picture = file.read_bytes()
        assert picture.startswith(PNG)
        assert int.from_bytes(picture[16:20]) == 902, file.name


@pytest.mark.parametrize("name", ["text_lengths", "search_final", "window_lengths"])
def test_same_result_gives_the_same_bytes_and_another_others(
    name: str, written: Path, tmp_path: Path
) -> None:
    before = (written / f"{name}.png").read_bytes()
    results = write_results(tmp_path)
    assert write_plot(name, results, tmp_path / "a").read_bytes() == before
    write_results(results, {PLOTS[name].source.file: changed(name)})
    assert write_plot(name, results, tmp_path / "b").read_bytes() != before


def test_readers_own_matplotlib_settings_change_nothing(written: Path, tmp_path: Path) -> None:
    import matplotlib

    results = write_results(tmp_path)
    with matplotlib.rc_context({"axes.xmargin": 0.4, "font.size": 30}):
        path = write_plot("text_lengths", results, tmp_path / "plots")
    assert path.read_bytes() == (written / "text_lengths.png").read_bytes()


def test_curves_are_the_results_numbers() -> None:
    sound = RESULTS["autopsy.json"]["curves"]["sound"]
    left, right = panels(draw("autopsy"))
    assert curves(left)[1] == ([0, 25, 50], [3.1] * 3)
    assert curves(right)[3][1] == [point["seed_metric"] for point in sound]


def test_first_projects_size_and_the_size_where_each_share_falls_are_marked() -> None:
    shares, quality = panels(draw("tokenizer_sweep"))
    for axes in (shares, quality):
        assert 1410 in [line.get_xdata()[0] for line in axes.lines]
    assert [text.get_text() for text in shares.texts] == ["1,760", "880"]  # 1 - s/20k = 0.912, …
    assert curves(quality)[0] == ([1410, 4400], [2.141, 2.44])  # the unmeasured size is left out


def test_search_tells_how_many_trials_ended_and_the_best() -> None:
    (axes,) = panels(draw("search_final"))
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert len(ticks) == 8
    assert "lstm\nsane\n0 of 2 ended" in ticks
    assert "2.20" in [text.get_text() for text in axes.texts]
    assert "trigram, 2.14" in legend_texts(draw("search_final"))


def test_perplexity_stands_where_its_loss_does() -> None:
    *_, losses, perplexity = panels(draw("search_curves"))
    assert losses.get_ylim() == perplexity.get_ylim()
    for place, label in zip(perplexity.get_yticks(), perplexity.get_yticklabels(), strict=True):
        assert math.exp(place) == pytest.approx(float(label.get_text()))


def test_character_models_validation_is_told_in_nats_and_in_perplexity() -> None:
    loss, perplexity = panels(draw("character_models"))
    bits = [2.2 - step / 10 for step in (1, 3, 5)]
    assert curves(loss)[1][1] == pytest.approx([value * math.log(2) for value in bits])
    assert curves(perplexity)[1][1] == pytest.approx([2**value for value in bits])


def test_bars_of_baselines_stand_from_the_best_down() -> None:
    (axes,) = panels(draw("baselines"))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["small GPT", "char LSTM", "trigram", "char GRU", "word LSTM"]
    assert axes.yaxis_inverted()
    assert "2.14   1.5M parameters, 12 s" in [text.get_text() for text in axes.texts]


def test_scaling_has_a_line_a_size_through_the_ends_of_its_runs() -> None:
    (axes,) = panels(draw("scaling"))
    small, large = curves(axes)
    assert (list(small[0]), list(small[1])) == ([1e13, 1e14], [2.4, 2.2])
    assert (list(large[0]), list(large[1])) == ([1e13, 1e14], [2.8, 2.1])


def test_model_that_wrote_nothing_has_no_bar_but_a_dash() -> None:
    figure = draw("evaluate")
    delta = panels(figure)[-1]
    assert [patch.get_width() for patch in delta.patches] == [0, 1.04]
    assert [text.get_text() for text in delta.texts] == ["–", "1.04"]


def test_verdict_for_an_author_without_held_out_works_has_a_column() -> None:
    axes, _ = panels(draw("authors_confusion"))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["pushkin", "gogol", "aksakov"]
    assert axes.images[0].get_array().tolist()[1] == [0, 25 / 30, 5 / 30]


def test_who_writes_one_story_at_a_time_is_as_fast_for_any_number_of_readers() -> None:
    speed, _ = panels(draw("bench_engines"))
    assert curves(speed)[2] == ([1, 8], [8, 8])


def test_each_column_of_growing_work_holds_the_rest_still() -> None:
    figure = panels(draw("bench_engines_grow"))
    assert [curves(axes)[0][0] for axes in figure[:3]] == [[1, 8], [25, 500], [32, 48, 500]]
    assert curves(figure[0])[1] == ([1, 8], [130, 8 * 130])  # a step is read for all readers


def test_missing_result_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingResultError, match=r"search\.json is missing; .*python -m scripts\."):
        write_plot("search_final", tmp_path, tmp_path)


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b"{}", b'{"models": 5}', '{"models": "я"}'.encode("cp1251")]
)
def test_broken_result_is_named_in_one_line_and_leaves_the_old_plot(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "baselines.json").write_bytes(content)
    (tmp_path / "baselines.png").write_bytes(b"old")
    with pytest.raises(PlotError, match=r"baselines\.json") as error:
        write_plot("baselines", tmp_path, tmp_path)
    assert not isinstance(error.value, MissingResultError)
    assert len(str(error.value).splitlines()) == 1
    assert (tmp_path / "baselines.png").read_bytes() == b"old"


def test_full_disk_leaves_the_old_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    figure, _ = new_figure()
    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_png(figure, tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_more_curves_than_colours_are_all_drawn_and_told_apart() -> None:
    many = range(3 * len(COLOURS))
    assert [item for _, item in colour_each(many)] == list(many)
    assert len({tuple(style.values()) for style, _ in line_each(many)}) == len(many)


def test_unmeasured_and_infinite_points_are_left_out() -> None:
    curve: list[dict[str, Any]] = [
        {"x": 1, "y": 2},
        {"x": 2},
        {"x": 3, "y": None},
        {"x": 4, "y": math.inf},
    ]
    assert points(curve, "x", "y") == ([1], [2])


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512"), (8192, "8.2k"), (600_000, "600k"), (14_000_000, "14M")]
)
def test_short_count(number: float, text: str) -> None:
    assert short_count(number) == text
