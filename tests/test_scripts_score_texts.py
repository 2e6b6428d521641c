"""The program: fits once on a corpus, scores JSONL line by line, keeps what passes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ml import authors
from ml.quotation import uniform
from scripts import score_texts
from tests import toy
from tests.test_ml_authors import SPLIT, library, write

OWN = write("И. Белов", 30, 21)  # in his manner, quoting nobody
FOREIGN = write("П. Горский", 30, 22)


class Place:
    """A corpus of three invented authors, and where the program puts things."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus, self.authors = folder / "corpus", folder / "authors"
        self.report = folder / "report.json"
        self.split = toy.write_json(folder / "split.json", SPLIT)
        rows = ["file\tauthor\ttitle\tgenre"]
        for work in library(sentences=90):
            path = self.corpus / work.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(work.text, "utf-8")
            rows.append(f"{work.file}\t{work.author}\tБез заглавия\t{work.genre}")
        (self.corpus / "SOURCES.tsv").write_text("\n".join(rows), "utf-8")

    def run(self, *arguments: str) -> None:
        named = {"authors": self.authors, "report": self.report, "split": self.split}
        options = [text for name, path in named.items() for text in (f"--{name}", str(path))]
        score_texts.main([*arguments, *options])

    def fit(self) -> None:
        self.run("--corpus", str(self.corpus))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    place.fit()
    return place


def write_lines(path: Path, texts: Sequence[str]) -> Path:
    records = [{"theme": number, "text": text} for number, text in enumerate(texts)]
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("\n".join(lines), "utf-8")  # blank lines between
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_report_tells_how_good_the_judges_are(place: Place) -> None:
    report = json.loads(place.report.read_text("utf-8"))
    assert report["classifier"]["target"] == "И. Белов"
    assert report["classifier"]["untested"] == ["К. Зимин"]
    assert 0.5 < report["classifier"]["accuracy"] <= 1
    assert set(report["without_masking"]) < set(report["classifier"])
    assert report["held_out"] == ["belov/b1.txt", "belov/b2.txt", "gorsky/g2.txt"]
    controls = report["held_out_segments_scored"]
    assert set(controls) == {"И. Белов", "П. Горский"}
    assert controls["И. Белов"]["delta"] < controls["П. Горский"]["delta"]
    assert controls["И. Белов"]["longest_quotation"] < 200  # what is held out is not indexed
    assert "longest_quotation" not in controls["П. Горский"]
    model = authors.load(place.authors)
    assert (report["data_sha256"], report["seed"]) == (model.data, model.settings.seed)


def test_texts_are_scored_in_order_with_their_other_fields(place: Place, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "texts.jsonl", [OWN, FOREIGN])
    place.run(str(source))
    scored = read_lines(tmp_path / "texts.scored.jsonl")
    assert [(line["theme"], line["text"]) for line in scored] == [(0, OWN), (1, FOREIGN)]
    assert [line["score"]["author"] for line in scored] == ["И. Белов", "П. Горский"]
    assert [line["score"]["attributed"] for line in scored] == [True, False]


def test_quotation_of_the_training_part_is_measured(place: Place, tmp_path: Path) -> None:
    quoted = (place.corpus / "zimin/z3.txt").read_text("utf-8")[40:1240]
    source = write_lines(tmp_path / "texts.jsonl", [quoted])
    place.run(str(source), "--out", str(tmp_path / "out.jsonl"))
    [line] = read_lines(tmp_path / "out.jsonl")
    assert line["score"]["quoted"] == len(uniform(quoted))


def test_keep_writes_only_what_passes_and_counts_the_rest(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "texts.jsonl", [OWN, "Коротко.", "Too short", OWN[:-1]])
    # Our invented author is monotonous.
    easy = {"max-repetition": "1", "min-variety": "0", "min-function-words": "0"}
    place.run(str(source), "--keep", *(t for k, v in easy.items() for t in (f"--{k}", v)))
    assert [line["theme"] for line in read_lines(tmp_path / "texts.scored.jsonl")] == [0]
    printed = capsys.readouterr().out
    assert "1 of 4 texts pass the filters" in printed
    assert "min_characters (1000): 2 fail" in printed
    assert "min_ends (1): 2 fail" in printed
    assert "min_cyrillic (0.95): 1 fail" in printed
    assert "max_quoted" not in printed


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "half',
        b'["a list"]',
        b'{"theme": "no text"}',
        b'{"text": 5}',
        '{"text": "другая кодировка"}'.encode("cp1251"),
        rb'{"text": "\ud800"}',
    ],
)
def test_broken_line_is_named_and_the_old_output_stays(
    line: bytes, place: Place, tmp_path: Path
) -> None:
    source, out = tmp_path / "texts.jsonl", tmp_path / "texts.scored.jsonl"
    source.write_bytes(json.dumps({"text": OWN}).encode() + b"\n" + line + b"\n")
    out.write_text("old", "utf-8")
    with pytest.raises(SystemExit) as error:
        place.run(str(source))
    assert str(error.value).startswith(f"{source}:2: ")
    assert "\n" not in str(error.value)
    assert {file.name for file in tmp_path.iterdir()} == {source.name, out.name}
    assert out.read_text("utf-8") == "old"


def test_full_disk_is_one_line_and_leaves_the_old_output(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_lines(tmp_path / "texts.jsonl", [OWN]), tmp_path / "texts.scored.jsonl"
    out.write_text("old", "utf-8")

    def fill(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(score_texts, "asdict", fill)
    with pytest.raises(SystemExit) as error:
        place.run(str(source))
    assert str(error.value) == f"{out}: No space left on device"
    assert {file.name for file in tmp_path.iterdir()} == {source.name, out.name}
    assert out.read_text("utf-8") == "old"


def test_input_is_never_overwritten(place: Place, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "texts.jsonl", [OWN])
    with pytest.raises(SystemExit, match="is the input"):
        place.run(str(source), "--out", str(source))
    assert [line["text"] for line in read_lines(source)] == [OWN]


def test_what_is_missing_is_named(place: Place, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nothing\.jsonl: No such file"):
        place.run(str(tmp_path / "nothing.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    with pytest.raises(SystemExit, match=r"empty\.jsonl: holds no text"):
        place.run(str(tmp_path / "empty.jsonl"))
    with pytest.raises(SystemExit, match=r"nowhere.*SOURCES\.tsv: not found"):
        score_texts.main(["--corpus", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"authors\.json: not a saved author model"):
        score_texts.main(["a.jsonl", "--authors", str(tmp_path)])
    with pytest.raises(SystemExit) as error:
        score_texts.main([])
    assert error.value.code == 2


def test_authors_are_fitted_once_and_again_for_another_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fits = Place(tmp_path), []
    fit = authors.fit

    def spy(*arguments: Any) -> authors.AuthorModel:
        fits.append(fit(*arguments))
        return fits[-1]

    monkeypatch.setattr(authors, "fit", spy)
    place.fit()
    first = len(fits)
    place.fit()
    assert len(fits) == first == 2  # with and without masking
    (place.corpus / "zimin/z3.txt").write_text(write("К. Зимин", 99, 77), "utf-8")
    place.fit()
    assert len(fits) == 4
    assert authors.load(place.authors).data == fits[-2].data != fits[0].data
