"""The built corpus: cleaned, without doubles, described by a manifest, whole or not at all."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml import results
from ml.corpus import clean, corpus_hash, read_works
from scripts import build_corpus
from tests import toy
from tests.test_ml_duplicates import compose


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy.write_corpus(tmp_path / "corpus")


def build(folder: Path, out: Path) -> dict[str, Any]:
    build_corpus.main([str(folder), "--out", str(out)])
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text("utf-8"))
    return manifest


def refuse(folder: Path, out: Path) -> str:
    """Return the one line that a build that must fail ends with."""
    with pytest.raises(SystemExit) as end:
        build(folder, out)
    message = str(end.value)
    assert "\n" not in message
    assert not (out / "manifest.json").exists()
    assert list(out.rglob("*.part")) == []
    return message


def add(folder: Path, file: str, paragraphs: list[str]) -> None:
    (folder / file).write_text("\n".join(paragraphs), "utf-8")
    with (folder / "SOURCES.tsv").open("a", encoding="utf-8") as table:
        table.write(f"{file}\tИ. Белов\tЕщё\tprose\n")


def test_built_corpus_reads_like_its_source(folder: Path, tmp_path: Path) -> None:
    manifest = build(folder, tmp_path / "out")
    assert read_works(tmp_path / "out") == read_works(folder)
    assert manifest["corpus_sha256"] == corpus_hash(read_works(folder))
    assert manifest["dropped"] == []


def test_manifest_describes_every_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = build(folder, out)
    assert manifest["command"].startswith("scripts.build_corpus")
    assert list(manifest["works"]) == [work[0] for work in toy.WORKS]
    for file, row in manifest["works"].items():
        data = (out / file).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["characters"] == len(data.decode().rstrip("\n"))
        assert row["genre"] in {"prose", "nonfiction", "verse"}
        assert row["split"] == "train"


def test_building_the_built_changes_nothing(folder: Path, tmp_path: Path) -> None:
    first = build(folder, tmp_path / "first")
    second = build(tmp_path / "first", tmp_path / "second")
    assert second["works"] == first["works"]
    assert second["corpus_sha256"] == first["corpus_sha256"]


def test_text_in_the_corpus_twice_comes_out_once(folder: Path, tmp_path: Path) -> None:
    # The first project's corpus held every text twice, so that its random split leaked.
    add(folder, "belov/vecher_2.txt", [toy.EVENING.replace("ё", "е"), "Конец."])
    manifest = build(folder, tmp_path / "out")
    (lost,) = manifest["dropped"]
    assert (lost["file"], lost["twin"]) == ("belov/vecher_2.txt", "belov/vecher.txt")
    assert lost["reason"] == "the same text"
    assert not (tmp_path / "out/belov/vecher_2.txt").exists()
    assert "belov/vecher_2.txt" not in [work.file for work in read_works(tmp_path / "out")]


def test_text_that_stands_twice_in_one_file_comes_out_once(folder: Path, tmp_path: Path) -> None:
    add(folder, "belov/dvazhdy.txt", compose(1, 8) * 2)
    manifest = build(folder, tmp_path / "out")
    assert manifest["dropped"][0]["reason"] == "repeated paragraphs"
    assert manifest["dropped"][0]["paragraphs"] == [9, 16]
    assert (tmp_path / "out/belov/dvazhdy.txt").read_text("utf-8").split("\n")[:-1] == [
        clean(text) for text in compose(1, 8)
    ]


def test_tale_inside_a_collection_comes_out_once(folder: Path, tmp_path: Path) -> None:
    add(folder, "belov/povest.txt", compose(1, 8))
    add(folder, "belov/sobranie.txt", [*compose(2, 8), *compose(1, 8)])
    add(folder, "belov/otryvok.txt", [*compose(2, 8)[:7], "Конец отрывка."])
    manifest = build(folder, tmp_path / "out")
    assert [(row["file"], row["twin"]) for row in manifest["dropped"]] == [
        ("belov/sobranie.txt", "belov/povest.txt"),
        ("belov/otryvok.txt", "belov/sobranie.txt"),
    ]
    assert "belov/otryvok.txt" not in manifest["works"]
    assert manifest["works"]["belov/sobranie.txt"]["characters"] > 1000


def test_held_out_copy_is_the_one_that_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = {"validation": [], "test": ["belov/test.txt"]}
    monkeypatch.setattr(build_corpus, "load_split", lambda: split)
    add(folder, "belov/train.txt", compose(1, 8))
    add(folder, "belov/test.txt", compose(1, 8))
    manifest = build(folder, tmp_path / "out")
    assert [row["file"] for row in manifest["dropped"]] == ["belov/train.txt"]
    assert manifest["works"]["belov/test.txt"]["split"] == "test"
    assert manifest["absent"] == []


def test_held_out_work_that_is_not_there_is_named(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    split = {"validation": ["belov/pismo.txt"], "test": ["belov/roman.txt"]}
    monkeypatch.setattr(build_corpus, "load_split", lambda: split)
    assert build(folder, tmp_path / "out")["absent"] == ["belov/roman.txt"]
    assert "held out by the split, but not here: belov/roman.txt\n" in capsys.readouterr().out


def test_work_that_left_the_sources_leaves_the_corpus(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "out")
    stranger = tmp_path / "out/belov/mine.txt"
    stranger.write_text("Моё.", "utf-8")
    table = (folder / "SOURCES.tsv").read_text("utf-8").split("\n")
    (folder / "SOURCES.tsv").write_text("\n".join([table[0], *table[2:]]), "utf-8")
    build(folder, tmp_path / "out")
    assert not (tmp_path / "out/belov/vecher.txt").exists()
    assert stranger.exists()


def test_folder_without_a_table_is_read_by_its_paths(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "belov").mkdir(parents=True)
    (folder / "belov/vecher.txt").write_text(toy.EVENING, "utf-8")
    (folder / "doroga.txt").write_text(toy.ROAD, "utf-8")
    build(folder, tmp_path / "out")
    works = {work.file: (work.author, work.title) for work in read_works(tmp_path / "out")}
    assert works == {"belov/vecher.txt": ("belov", "vecher"), "doroga.txt": ("texts", "doroga")}


def test_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refuse(tmp_path / "empty", tmp_path / "out").endswith(
        "empty: empty: neither SOURCES.tsv nor *.txt in it"
    )
    assert "nowhere: no such folder" in refuse(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "a.txt").write_text("Вечер.", "utf-8")
    assert "a.txt: not a folder" in refuse(tmp_path / "a.txt", tmp_path / "out")


def test_text_in_another_encoding_is_named(folder: Path, tmp_path: Path) -> None:
    data = "Вечер.\n".encode() * 3 + "Утро.".encode("cp1251")
    (folder / "belov/pismo.txt").write_bytes(data)
    message = refuse(folder, tmp_path / "out")
    assert "belov/pismo.txt: not utf-8 at byte 36 (0xd3); re-encode it" in message


@pytest.mark.parametrize(
    "data", [b"\x89PNG\0\0", "Вечер.\n".encode() * 9 + b"\0", b"\xff\xfe\x12\0"]
)
def test_binary_file_is_named(folder: Path, tmp_path: Path, data: bytes) -> None:
    (folder / "belov/pismo.txt").write_bytes(data)
    message = refuse(folder, tmp_path / "out")
    assert f"belov/pismo.txt: byte {data.index(0)} is zero: a binary file" in message


def test_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "belov/pismo.txt").unlink()
    assert "belov/pismo.txt: No such file" in refuse(folder, tmp_path / "out")


def test_table_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    add(folder, "../secret.txt", ["Тайна."])
    assert "row 7 leads out of the folder: ../secret.txt" in refuse(folder, tmp_path / "out")


def test_sources_are_not_overwritten(folder: Path) -> None:
    assert "would be overwritten" in refuse(folder, folder)
    assert "or reread" in refuse(folder, folder / "cleaned")


def test_build_that_fails_leaves_the_old_corpus_as_it_was(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(folder, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (folder / "belov/vecher.txt").write_text("Иной вечер, нисколько не похожий.", "utf-8")
    (folder / "gorsky/zametki.txt").write_bytes(b"\xcf\xee\xeb")  # the last to be read
    with pytest.raises(SystemExit, match=r"zametki\.txt: not utf-8"):
        build(folder, out)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


@pytest.mark.parametrize("pause", ["-1", "nan", "inf", "час"])
def test_pause_must_be_a_time(
    tmp_path: Path, pause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build_corpus.main(["--download", "--pause", pause, "--out", str(tmp_path)])
    assert f"invalid seconds value: '{pause}'" in capsys.readouterr().err


def test_full_disk_leaves_the_old_file_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(folder, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (folder / "belov/pismo.txt").write_text("Другое письмо, и весьма длинное.", "utf-8")
    write_text = Path.write_text

    def fill(self: Path, data: str, *rest: Any) -> int:
        if "pismo" in self.name:
            write_text(self, data[:5], *rest)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(self, data, *rest)

    monkeypatch.setattr(results.Path, "write_text", fill)
    with pytest.raises(
        SystemExit, match=r"out/\.part/belov/pismo\.txt: cannot be written: No space"
    ):
        build_corpus.main([str(folder), "--out", str(out)])
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_disk_that_really_fills_ends_with_one_line(folder: Path, tmp_path: Path) -> None:
    add(folder, "belov/bolshaya.txt", compose(1, 300))
    out = tmp_path / "out"
    process = subprocess.run(
        [sys.executable, "-m", "scripts.build_corpus", str(folder), "--out", str(out)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.strip().split("\n")[-1] == (
        f"{out}/.part/belov/bolshaya.txt: cannot be written: File too large"
    )
    assert "Traceback" not in process.stderr
    assert not (out / "belov/bolshaya.txt").exists()
    assert not (out / "manifest.json").exists()
    assert list(out.rglob("*.part")) == []


def test_download_is_built_like_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(target: Path, *, url: str, pause: float) -> None:
        asked.append((url, pause))
        toy.write_corpus(target)

    monkeypatch.setattr("ml.wikisource.download", download)
    out = tmp_path / "out"
    build_corpus.main(["--download", "--url", "http://127.0.0.1/api.php", "--out", str(out)])
    assert asked == [("http://127.0.0.1/api.php", 1.0)]
    assert read_works(out) == read_works(folder)
