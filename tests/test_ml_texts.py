"""What experiments read: groups of training prose, the held-out works, stories; bad input named."""

import json
from pathlib import Path

import pytest

from ml import corpus, texts
from ml.corpus import CorpusError, corpus_hash, read_works
from tests import toy

GROUPS = {"own": ["belov"], "others": ["gorsky"]}


class Place:
    def __init__(self, folder: Path) -> None:
        self.corpus = toy.write_corpus(folder / "corpus")
        self.split = toy.write_json(folder / "split.json", toy.SPLIT)

    def load(self, **changes: object) -> texts.Texts:
        options: dict[str, object] = {"groups": GROUPS, "split_file": self.split, **changes}
        return texts.load(self.corpus, **options)  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def chapters_of(place: Place, file: str) -> list[str]:
    [work] = [work for work in read_works(place.corpus) if work.file == file]
    return corpus.chapters(work)


def test_each_group_gets_its_authors_training_prose(place: Place) -> None:
    data = place.load()
    assert data.train == {
        "own": chapters_of(place, "belov/vecher.txt"),
        "others": chapters_of(place, "gorsky/doroga.txt")
        + chapters_of(place, "gorsky/zametki.txt"),
    }
    assert data.everything() == data.train["own"] + data.train["others"]
    assert data.validation == chapters_of(place, "belov/pismo.txt")
    assert data.test == chapters_of(place, "belov/usadba.txt")
    assert data.split == toy.SPLIT


def test_nobody_learns_verse_or_what_is_left_out_or_an_unnamed_author(place: Place) -> None:
    data = place.load(groups={"own": ["belov"]}, leave_out=["gorsky/zametki.txt"])
    assert data.train == {"own": chapters_of(place, "belov/vecher.txt")}
    assert not any("синеет вечер" in text for text in data.everything())


def test_held_out_works_are_read_without_a_group(place: Place) -> None:
    data = place.load(groups={})
    assert (data.train, len(data.test)) == ({}, 2)


def test_hash_is_of_all_prose_that_is_not_left_out(place: Place) -> None:
    prose = [work for work in read_works(place.corpus) if work.genre != "verse"]
    assert place.load().sha256 == corpus_hash(prose)
    assert place.load(leave_out=["gorsky/zametki.txt"]).sha256 == corpus_hash(prose[:-1])
    letter = place.corpus / "belov/pismo.txt"
    letter.write_text(toy.LETTER.replace("деревне", "городе"), "utf-8")
    assert place.load().sha256 != corpus_hash(prose)


def test_group_without_prose_is_named(place: Place) -> None:
    with pytest.raises(CorpusError, match=r"corpus: no prose for strangers$"):
        place.load(groups={**GROUPS, "strangers": ["zimin"]})


@pytest.mark.parametrize(("kept", "missing"), [("validation", "test"), ("test", "validation")])
def test_folder_without_a_held_out_part_is_refused(kept: str, missing: str, place: Place) -> None:
    toy.write_json(place.split, {kept: toy.SPLIT[kept]})
    with pytest.raises(CorpusError, match=f"no prose for {missing}$"):
        place.load()


def test_empty_folder_is_refused(place: Place, tmp_path: Path) -> None:
    place.corpus = tmp_path / "empty"
    place.corpus.mkdir()
    with pytest.raises(CorpusError, match=r"empty/SOURCES\.tsv: not found"):
        place.load()


@pytest.mark.parametrize("content", [None, b"{", '{"test": "ё"}'.encode("cp1251")])
def test_unreadable_split_is_named(content: bytes | None, place: Place) -> None:
    # It was a traceback.
    place.split.unlink()
    if content is not None:
        place.split.write_bytes(content)
    with pytest.raises(CorpusError) as error:
        place.load()
    assert str(error.value).startswith(f"{place.split}: ")
    assert "\n" not in str(error.value)


def test_stories_are_cleaned_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "stories.jsonl"
    raw = [" Первая  и   короткая…", "Вторая.\n\nЕщё абзац."]
    lines = [json.dumps({"theme": "снег", "text": text}, ensure_ascii=False) for text in raw]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    assert texts.read_stories(file) == [corpus.clean(text) for text in raw]
    assert texts.read_stories(file)[1] == "Вторая.\nЕщё абзац."


@pytest.mark.parametrize("line", ['{"text": "half', '["a list"]', '{"theme": "no text"}', "5", ""])
def test_broken_story_line_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "stories.jsonl"
    good = json.dumps({"text": "Снег."})
    file.write_text(f"{good}\n{line}\n{good}\n", "utf-8")
    with pytest.raises(CorpusError) as error:
        texts.read_stories(file)
    assert str(error.value) == f"{file}, line 2: no JSON with a text"


@pytest.mark.parametrize("content", [None, '{"text": "Снег"}'.encode("cp1251"), b""])
def test_unreadable_stories_are_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "stories.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CorpusError) as error:
        texts.read_stories(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
