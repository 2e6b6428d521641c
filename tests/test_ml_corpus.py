"""Cleaning, reading, cutting and splitting the texts."""

from dataclasses import replace
from pathlib import Path

import pytest

from ml.corpus import (
    CorpusError,
    Work,
    chapters,
    clean,
    corpus_hash,
    load_split,
    read_lines,
    read_table,
    read_works,
    split_of,
)
from tests import toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy.write_corpus(tmp_path / "corpus")


def work(text: str, file: str = "belov/vecher.txt") -> Work:
    return Work(file, "И. Белов", "Вечер", "prose", text)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("― Кто там?", "— Кто там?"),
        ("– Кто там?", "— Кто там?"),
        ("что‑то", "что-то"),
        ("“Пора”, — сказал он.", "«Пора», — сказал он."),
        ("барин\u00a0уехал", "барин уехал"),
        ("\ufeffВечер", "Вечер"),
        ("еще\u0308 и\u0306", "ещё й"),
        ("Он   встал\t и\r вышел.", "Он встал и вышел."),
        ("  Он встал.  \r\n\n \n\tОн вышел.\n", "Он встал.\nОн вышел."),
        ("", ""),
        (" \n\ufeff\n\t", ""),
    ],
)
def test_typography_becomes_uniform(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_russian_inner_quotes_open_and_close() -> None:
    # “ closes a quotation that „ opened, and opens one that ” closes.
    assert clean("Он крикнул: „Пора!“ — и «письмо „срочное“».") == (
        "Он крикнул: «Пора!» — и «письмо «срочное»»."
    )


@pytest.mark.parametrize(
    "kept",
    [
        "Всё ещё Ёлка, ЁЖ и ёж.",
        "— Да-с, — отвечал он — и вышел...",
        "«Comment ça va, mon cher Évariste?» — спросила она.",
        "Первый абзац.\nВторой абзац.",
        "Что?.. Не может быть!",
        "(См. стр. 12; № 5.)",
    ],
)
def test_cleaning_keeps_what_belongs_to_the_author(kept: str) -> None:
    assert clean(kept) == kept


@pytest.mark.parametrize(
    "raw", ["„Пора“,\u00a0― сказал\tон. \r\n\r\n “Ещё” – и ещё\u0308…", *(w[-1] for w in toy.WORKS)]
)
def test_cleaning_twice_changes_nothing(raw: str) -> None:
    assert clean(clean(raw)) == clean(raw)


def test_works_come_cleaned_in_the_order_of_the_table(folder: Path) -> None:
    works = read_works(folder)
    assert [(w.file, w.author, w.title, w.genre) for w in works] == [w[:4] for w in toy.WORKS]
    assert [w.text for w in works] == [clean(text) for *_, text in toy.WORKS]
    assert works[-1].folder == "gorsky"


def test_quotation_marks_in_the_table_are_letters(folder: Path) -> None:
    table = folder / "SOURCES.tsv"
    table.write_text(
        'file\tauthor\ttitle\tgenre\nbelov/pismo.txt\tИ. Белов\t"Письмо\tprose\n', "utf-8"
    )
    assert [w.title for w in read_works(folder)] == ['"Письмо']


def test_missing_table_is_named(folder: Path) -> None:
    (folder / "SOURCES.tsv").unlink()
    with pytest.raises(CorpusError, match=r"corpus/SOURCES\.tsv: not found"):
        read_works(folder)


def test_missing_text_is_named(folder: Path) -> None:
    (folder / "belov/pismo.txt").unlink()
    with pytest.raises(CorpusError, match=r"belov/pismo\.txt: .*No such file"):
        read_works(folder)


def test_text_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "belov/pismo.txt").write_text(toy.LETTER, "cp1251")
    with pytest.raises(CorpusError, match=r"belov/pismo\.txt: .*utf-8"):
        read_works(folder)


def test_table_in_another_encoding_is_named(folder: Path) -> None:
    table = folder / "SOURCES.tsv"
    table.write_text(table.read_text("utf-8"), "cp1251")
    with pytest.raises(CorpusError, match=r"SOURCES\.tsv: .*utf-8"):
        read_works(folder)


def test_first_byte_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Вечер.\nУтро ".encode() + b"\xcf\xee\xeb\n")
    with pytest.raises(CorpusError, match=r"a\.txt: not utf-8 at byte 21 \(0xcf\); re-encode it"):
        list(read_lines(path))


def test_binary_file_is_named(folder: Path) -> None:
    (folder / "belov/pismo.txt").write_bytes("Вечер.\n".encode() + b"\1\0\2")
    with pytest.raises(CorpusError, match=r"belov/pismo\.txt: byte 13 is zero: a binary file"):
        read_works(folder)


def test_lines_come_without_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffОдин\r\nДва\rТри\n\nЧетыре".encode())
    assert list(read_lines(path)) == ["Один", "Два", "Три", "", "Четыре"]


def test_table_without_a_column_is_named(folder: Path) -> None:
    (folder / "SOURCES.tsv").write_text("file\tauthor\ttitle\na.txt\tА\tБ\n", "utf-8")
    with pytest.raises(CorpusError, match=r"SOURCES\.tsv: has no column 'genre'"):
        read_works(folder)


def test_short_row_of_the_table_is_named(folder: Path) -> None:
    with (folder / "SOURCES.tsv").open("a", encoding="utf-8") as table:
        table.write("belov/vecher.txt\tИ. Белов\n")
    with pytest.raises(CorpusError, match=r"SOURCES\.tsv: row 7 lacks one of file, author"):
        read_table(folder)


@pytest.mark.parametrize("name", ["belov/vecher.txt", "gorsky/../belov/vecher.txt"])
def test_text_named_twice_is_not_read_twice(folder: Path, name: str) -> None:
    with (folder / "SOURCES.tsv").open("a", encoding="utf-8") as table:
        table.write(f"{name}\tИ. Белов\tВечер\tprose\n")
    with pytest.raises(CorpusError, match=rf"SOURCES\.tsv: row 7 names {name} again"):
        read_table(folder)


@pytest.mark.parametrize("nothing", ["", " \n\n", "\ufeff\n"])
def test_empty_text_is_named(folder: Path, nothing: str) -> None:
    (folder / "belov/pismo.txt").write_text(nothing, "utf-8")
    with pytest.raises(CorpusError, match=r"belov/pismo\.txt: empty"):
        read_works(folder)


@pytest.mark.parametrize("nothing", ["", "file\tauthor\ttitle\tgenre\n"])
def test_empty_table_is_named(folder: Path, nothing: str) -> None:
    (folder / "SOURCES.tsv").write_text(nothing, "utf-8")
    with pytest.raises(CorpusError, match=r"SOURCES\.tsv: names no work"):
        read_works(folder)


@pytest.mark.parametrize(
    "heading",
    [
        "Глава первая",
        "ГЛАВА XII.",
        "Глава 3:",
        "Часть вторая.",
        "Письмо 4",
        "IV",
        "XXXVIII.",
        "12.",
    ],
)
def test_numbered_heading_cuts_and_is_dropped(heading: str) -> None:
    text = f"Был вечер.\nШёл дождь.\n{heading}\nНастало утро."
    assert chapters(work(text)) == ["Был вечер.\nШёл дождь.", "Настало утро."]


@pytest.mark.parametrize(
    "line", ["Глава наша кончена, читатель.", "Часть гостей уехала.", "Иван", "1812 год.", "— I"]
)
def test_ordinary_line_does_not_cut(line: str) -> None:
    text = f"Был вечер.\n{line}\nНастало утро."
    assert chapters(work(text)) == [text]


def test_headings_in_a_row_leave_no_empty_chapter() -> None:
    text = "Часть первая\nГлава I\nБыл вечер.\nГлава II\nНастало утро.\nГлава III"
    assert chapters(work(text)) == ["Был вечер.", "Настало утро."]


def test_work_without_headings_is_one_chapter() -> None:
    assert chapters(work("Был вечер.\nШёл дождь.")) == ["Был вечер.\nШёл дождь."]


def test_split_holds_out_whole_works_that_exist(folder: Path, tmp_path: Path) -> None:
    split = load_split(toy.write_json(tmp_path / "split.json", toy.SPLIT))
    parts = {w.file: split_of(w, split) for w in read_works(folder)}
    assert parts == {
        "belov/vecher.txt": "train",
        "belov/pismo.txt": "validation",
        "belov/usadba.txt": "test",
        "belov/stikhi.txt": "train",
        "gorsky/doroga.txt": "train",
        "gorsky/zametki.txt": "train",
    }


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"test": "a.txt"}', b'{"test": ["\xff"]}'])
def test_broken_split_is_named(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "split.json").write_bytes(broken)
    with pytest.raises(CorpusError, match=r"split\.json: not a split of works"):
        load_split(tmp_path / "split.json")


def test_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"split\.json: No such file"):
        load_split(tmp_path / "split.json")


def test_shipped_split_holds_out_each_work_once() -> None:
    split = load_split()
    assert set(split) == {"validation", "test"}
    assert all(split.values())
    files = [file for part in split.values() for file in part]
    assert len(files) == len(set(files))


def test_hash_does_not_depend_on_the_order(folder: Path) -> None:
    works = read_works(folder)
    assert corpus_hash(works[::-1]) == corpus_hash(iter(works))


def test_hash_changes_with_a_letter_a_name_or_a_work() -> None:
    first, second = work("Был вечер."), work("Настало утро.", "gorsky/doroga.txt")
    hashes = [
        corpus_hash(works)
        for works in (
            [first, second],
            [replace(first, text="Был ветер."), second],
            [replace(first, file="belov/utro.txt"), second],
            [replace(first, text=second.text), replace(second, text=first.text)],
            [first],
        )
    ]
    assert len(set(hashes)) == len(hashes)
