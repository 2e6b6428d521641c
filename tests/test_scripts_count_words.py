"""The frequency study from a corpus folder and a JSONL file to its figures on disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from ml.frequency import count_words
from scripts import count_words as script
from tests import toy

STORIES = [toy.ROAD, toy.NOTES, toy.LETTER]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    toy.write_corpus(tmp_path / "corpus")
    toy.toy_tokenizer().save_pretrained(tmp_path / "tokenizer")
    write_lines(tmp_path / "some_stories.jsonl", STORIES)
    return tmp_path


def write_lines(path: Path, stories: list[str]) -> None:
    lines = (json.dumps({"theme": "дорога", "text": s}, ensure_ascii=False) for s in stories)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def run(place: Path, *options: str) -> dict[str, Any]:
    script.main(
        [
            *(str(place / "corpus"), "--author", "belov"),
            *("--texts", str(place / "some_stories.jsonl")),
            *("--tokenizer", str(place / "tokenizer")),
            *("--threshold", "2", "--window", "64"),
            *("--out", str(place / "frequency.json"), *options),
        ]
    )
    found: dict[str, Any] = json.loads((place / "frequency.json").read_text("utf-8"))
    return found


def test_samples_are_of_the_smaller_corpus_size(place: Path) -> None:
    found = run(place)
    size = count_words(STORIES)
    assert size < count_words([toy.EVENING, toy.LETTER, toy.MANOR])
    assert found["words_a_sample"] == size
    for kinds in found["samples"].values():
        assert kinds["words"]["total"] == kinds["lemmas"]["total"] == size
    assert set(found["samples"]) == {"Pushkin", "some stories"}


def test_chance_in_a_draw_is_told_by_other_draws(place: Path) -> None:
    one = run(place, "--words", "40", "--draws", "1")["samples"]["Pushkin"]["words"]
    many = run(place, "--words", "40", "--draws", "6")["samples"]["Pushkin"]["words"]
    assert one["distinct_range"] == [one["distinct"]] * 2
    assert many["distinct"] == one["distinct"]
    low, high = many["distinct_range"]
    assert low < high
    assert low <= many["distinct"] <= high


def test_whole_corpora_stand_beside_the_first_projects_figures(place: Path) -> None:
    found = run(place, "--words", "40")
    chapters = count_words([toy.EVENING, toy.LETTER, toy.MANOR]) - 4  # the headings: Глава …
    assert found["samples"]["Pushkin"]["words"]["total"] == 40
    assert found["whole"]["Pushkin"]["words"]["total"] == chapters - 2  # … and I., II.
    assert "rank_frequency" not in found["whole"]["Pushkin"]["words"]
    assert found["seed_project"]["Pushkin"]["words"]["distinct"] == 99_431


def test_verse_and_other_authors_are_not_pushkins_prose(place: Path) -> None:
    before = run(place, "--words", "40")
    (place / "corpus/belov/stikhi.txt").write_text("Снежок, снежок", "utf-8")
    (place / "corpus/gorsky/doroga.txt").write_text("Дорога дальняя", "utf-8")
    assert run(place, "--words", "40") == before


def test_lengths_before_and_after_the_filter(place: Path) -> None:
    assert "after" not in run(place)["text_lengths"]
    write_lines(place / "kept.jsonl", STORIES[:1])
    lengths = run(place, "--kept", str(place / "kept.jsonl"))["text_lengths"]
    assert [lengths[stage]["texts"] for stage in ("before", "after")] == [3, 1]
    assert [sum(lengths[stage]["counts"]) for stage in ("before", "after")] == [3, 1]


def test_windows_tell_what_padding_would_cost(place: Path) -> None:
    windows = run(place)["windows"]
    assert windows["edges"][-1] == windows["length"] == 64
    tokenizer = toy.toy_tokenizer()
    tokens = sum(len(tokenizer.encode(story.replace("\n\n", "\n"))) + 1 for story in STORIES)
    found = windows["corpora"]["some stories"]
    assert found["packed_windows"] == -(-tokens // 64)
    assert found["windows"] > found["packed_windows"]
    assert found["padding"] == pytest.approx(1 - tokens / (64 * found["windows"]))
    assert sum(found["counts"]) == found["windows"]


def test_same_seed_gives_the_same_file(place: Path) -> None:
    run(place, "--words", "50")
    first = (place / "frequency.json").read_bytes()
    run(place, "--words", "50")
    assert (place / "frequency.json").read_bytes() == first


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("some_stories.jsonl", b'{"text": "a"}\n{"text"', "some_stories.jsonl, line 2"),
        ("some_stories.jsonl", b'{"story": "a"}\n', "some_stories.jsonl, line 1"),
        ("some_stories.jsonl", "{}".encode("utf-16"), "some_stories.jsonl"),
        ("some_stories.jsonl", b"", "some_stories.jsonl: no texts"),
        ("tokenizer/tokenizer.json", b"{}", "tokenizer.json"),
        ("corpus/belov/vecher.txt", "вечер".encode("cp1251"), "vecher.txt"),
        ("corpus/SOURCES.tsv", b"file\tauthor\ttitle\tgenre\n", "SOURCES.tsv"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_the_file(
    place: Path, name: str, content: bytes, message: str
) -> None:
    (place / name).write_bytes(content)
    with pytest.raises(SystemExit, match=message) as ended:
        run(place)
    assert len(str(ended.value).splitlines()) == 1
    assert not (place / "frequency.json").exists()


@pytest.mark.parametrize("option", ["--texts", "--kept", "--tokenizer"])
def test_missing_file_is_named(place: Path, option: str) -> None:
    with pytest.raises(SystemExit, match="nowhere"):
        run(place, option, str(place / "nowhere"))


def test_author_without_prose_is_named(place: Path) -> None:
    with pytest.raises(SystemExit, match="names no prose of nobody"):
        run(place, "--author", "nobody")


def test_sample_larger_than_a_corpus_is_refused(place: Path) -> None:
    with pytest.raises(SystemExit, match=r"Pushkin has \d+ words, a sample of 100,000 is asked"):
        run(place, "--words", "100000")
