"""The command that draws: all plots or some, what it skips and what it refuses."""

from pathlib import Path

import pytest

from scripts import plot
from tests.plot_results import RESULTS, write_results


def run(folder: Path, *names: str) -> list[str]:
    """Draw from ``folder/results`` and return the plots that then stand in ``folder/plots``."""
    plot.main(
        [*names, "--results", str(folder / "results"), "--out", str(folder / "plots" / "new")]
    )
    return drawn(folder)


def drawn(folder: Path) -> list[str]:
    return sorted(file.stem for file in (folder / "plots" / "new").glob("*"))


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """A folder with two results only."""
    names = ("autopsy.json", "frequency.json")
    write_results(tmp_path / "results", {name: RESULTS[name] for name in names})
    return tmp_path


def test_plots_without_a_result_are_skipped_with_the_command_that_makes_it(
    some: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(some, "autopsy", "scaling", "text_lengths")
    assert found == ["autopsy", "text_lengths"]
    (skipped,) = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert skipped.startswith("scaling skipped: ")
    assert "scaling.json is missing; it comes from: python -m scripts." in skipped


def test_without_names_all_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("autopsy.json", "scaling.json", "finetuning.json")
    write_results(tmp_path / "results", {name: RESULTS[name] for name in names})
    assert run(tmp_path) == ["autopsy", "finetuning", "scaling"]
    assert len(capsys.readouterr().out.splitlines()) == len(plot.PLOTS)


def test_named_plots_alone_are_drawn(some: Path) -> None:
    assert run(some, "window_lengths") == ["window_lengths"]


def test_broken_result_ends_with_its_name_when_the_others_are_drawn(some: Path) -> None:
    (some / "results/frequency.json").write_text('{"threshold": ', "utf-8")
    with pytest.raises(SystemExit, match=r"frequency\.json") as ended:
        run(some, "text_lengths", "window_lengths", "autopsy")
    assert len(str(ended.value).splitlines()) == 1
    assert drawn(some) == ["autopsy"]


def test_unknown_plot_is_refused_with_those_there_are(some: Path) -> None:
    with pytest.raises(SystemExit, match=r"no such plot: nonsense; there are: .*autopsy"):
        run(some, "autopsy", "nonsense")
    assert drawn(some) == []
