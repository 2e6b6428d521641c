"""The download against a local wiki: politeness, retries, resuming, what is read from a page."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ml.corpus import CorpusError, read_works
from ml.wikisource import ATTEMPTS, PAUSE, WikiError, download, list_pages, parse_page
from tests import toy

EVENING = "".join(f"<p>{text}</p>\n" for text in toy.EVENING.split("\n\n"))
PAGES = {
    "Вечер (Белов)": EVENING,
    "Усадьба (Белов)": (
        '<p>Предисловие.</p><ul><li><a href="/wiki/%D0%A3%D1%81%D0%B0%D0%B4%D1%8C%D0%B1%D0%B0'
        '_(%D0%91%D0%B5%D0%BB%D0%BE%D0%B2)/II">*</a></li>'
        '<li><a href="/wiki/Усадьба_(Белов)/I#top">*</a></li></ul>'
    ),
    "Усадьба (Белов)/I": "<p>Старый дом стоял на горе.</p>",
    "Усадьба (Белов)/II": "<p>Приехал поручик.</p>",
    "Дорога (Белов)": (
        '<p>Издания:</p><a href="/wiki/Дорога_(Белов)/ДО">старое</a>'
        '<a href="/wiki/Дорога_(Белов)/1978_(СО)/Глава_I">новое</a>'
    ),
    "Дорога (Белов)/1978 (СО)": '<a href="/wiki/Дорога_(Белов)/1978_(СО)/Глава_I">Глава I</a>',
    "Дорога (Белов)/1978 (СО)/Глава I": "<p>Метель поднялась.</p>",
    "Дорога (Белов)/ДО": "<p>Метель поднялась.</p>",
}


class LocalWiki(ThreadingHTTPServer):
    """Answers like api.php; ``faults`` are played first, one a request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.requests: list[tuple[dict[str, list[str]], str]] = []
        self.faults: list[tuple[int, dict[str, str], str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/w/api.php"


class Handler(BaseHTTPRequestHandler):
    server: LocalWiki

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        title = query["page"][0]
        self.server.asked.append(title)
        self.server.requests.append((query, self.headers["User-Agent"]))
        status, body = 200, json.dumps({"parse": {"text": PAGES.get(title, "")}})
        headers: dict[str, str] = {}
        if title not in PAGES:
            body = json.dumps({"error": {"code": "missingtitle", "info": "The page is not there."}})
        if self.server.faults:
            status, headers, body = self.server.faults.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def wiki() -> Iterator[LocalWiki]:
    with LocalWiki() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Run:
    """Downloads the given pages from the local wiki into ``folder``; time is written down."""

    def __init__(self, wiki: LocalWiki, folder: Path) -> None:
        self.wiki, self.folder, self.slept = wiki, folder, list[float]()

    def __call__(self, *titles: str) -> None:
        rows = ["# a remark", "file\tauthor\ttitle\tgenre\tpage"]
        rows += [f"belov/{n}.txt\tИ. Белов\t{t}\tprose\t{t}" for n, t in enumerate(titles)]
        self.folder.mkdir(exist_ok=True)
        pages = self.folder / "list.tsv"
        pages.write_text("\n".join(rows) + "\n", "utf-8")
        raw = self.folder / "raw"
        download(raw, pages=pages, url=self.wiki.url, pause=0.5, sleep=self.slept.append)

    def text(self, number: int = 0) -> str:
        return (self.folder / f"raw/belov/{number}.txt").read_text("utf-8")


@pytest.fixture
def run(wiki: LocalWiki, tmp_path: Path) -> Run:
    return Run(wiki, tmp_path / "out")


def test_downloaded_folder_is_a_corpus(run: Run) -> None:
    run("Вечер (Белов)")
    (work,) = read_works(run.folder / "raw")
    assert (work.file, work.author, work.title) == ("belov/0.txt", "И. Белов", "Вечер (Белов)")
    assert len(work.text.split("\n")) == len(toy.EVENING.split("\n\n"))
    assert work.text.startswith("Глава первая\nВ исходе октября приехал я")


def test_chapters_come_in_the_order_of_the_page(run: Run) -> None:
    run("Усадьба (Белов)")
    assert run.text().split("\n") == [
        *("Предисловие.", "*", "*"),
        *("II", "Приехал поручик.", "I", "Старый дом стоял на горе.", ""),
    ]


def test_of_two_editions_one_is_taken(run: Run) -> None:
    run("Дорога (Белов)")
    assert run.text().count("Метель поднялась.") == 1
    assert "Дорога (Белов)/ДО" not in run.wiki.asked


def test_requests_are_polite(run: Run) -> None:
    run("Усадьба (Белов)")
    for query, agent in run.wiki.requests:
        assert query["maxlag"] == ["5"]
        assert "neuropushkin" in agent
    assert run.slept == [0.5] * 3
    assert PAUSE >= 1


def test_page_on_disk_is_not_asked_for_again(run: Run) -> None:
    run("Вечер (Белов)", "Усадьба (Белов)")
    first = run.text(1)
    run.wiki.asked.clear()
    run("Вечер (Белов)", "Усадьба (Белов)")
    assert run.wiki.asked == []
    assert run.text(1) == first


def test_interrupted_download_goes_on(run: Run) -> None:
    run.wiki.faults = [(200, {}, json.dumps({"parse": {"text": EVENING}})), (403, {}, "")]
    with pytest.raises(WikiError, match=r"Усадьба \(Белов\): HTTP 403"):
        run("Вечер (Белов)", "Усадьба (Белов)")
    run.wiki.asked.clear()
    run("Вечер (Белов)", "Усадьба (Белов)")
    assert "Вечер (Белов)" not in run.wiki.asked
    assert run.wiki.asked[0] == "Усадьба (Белов)"


@pytest.mark.parametrize(
    "fault",
    [
        (429, {}, ""),
        (500, {}, ""),
        (503, {}, ""),
        (200, {}, '{"parse": {"te'),
        (200, {}, "<html>Добро пожаловать</html>"),
        (200, {}, '{"error": {"code": "maxlag", "info": "Waiting for a database server"}}'),
    ],
)
def test_trouble_is_met_with_longer_and_longer_waits(
    run: Run, fault: tuple[int, dict[str, str], str]
) -> None:
    run.wiki.faults = [fault] * 3
    run("Вечер (Белов)")
    assert "В исходе октября" in run.text()
    assert run.slept == [0.5, 2.0, 4.0, 8.0]


def test_retry_after_is_honoured(run: Run) -> None:
    run.wiki.faults = [(429, {"Retry-After": "37"}, ""), (503, {"Retry-After": "0"}, "")]
    run("Вечер (Белов)")
    assert run.slept == [0.5, 37.0, 0.5]


def test_endless_trouble_ends_with_one_line(run: Run) -> None:
    run.wiki.faults = [(503, {}, "")] * 100
    with pytest.raises(WikiError, match=r"Вечер \(Белов\): gave up after 6 attempts: HTTP 503"):
        run("Вечер (Белов)")
    assert len(run.wiki.asked) == ATTEMPTS
    assert not (run.folder / "raw/SOURCES.tsv").exists()


def test_page_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(WikiError, match=r"Роман \(Белов\): The page is not there"):
        run("Роман (Белов)")
    assert len(run.wiki.asked) == 1


def test_wiki_that_does_not_answer_is_named(tmp_path: Path) -> None:
    pages = tmp_path / "list.tsv"
    pages.write_text("file\tauthor\ttitle\tgenre\tpage\na.txt\ta\ta\tprose\tВечер\n", "utf-8")
    with pytest.raises(WikiError, match=r"Вечер: gave up .*ConnectError"):
        download(tmp_path / "raw", pages=pages, url="http://127.0.0.1:9/", sleep=lambda _: None)


@pytest.mark.parametrize(("url", "words"), [("http://[::1", "not an address"), ("", "api.php")])
def test_address_that_is_no_wiki_is_named(run: Run, tmp_path: Path, url: str, words: str) -> None:
    pages = tmp_path / "list.tsv"
    pages.write_text("file\tauthor\ttitle\tgenre\tpage\na.txt\ta\ta\tprose\tВечер\n", "utf-8")
    run.wiki.faults = [(200, {}, "[]")]
    with pytest.raises(WikiError, match=words):
        download(tmp_path / "raw", pages=pages, url=url or run.wiki.url, sleep=lambda _: None)


def test_full_disk_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml.wikisource.write_text", fail)
    with pytest.raises(CorpusError, match=r"Вечер .*\.html: cannot be written: No space left"):
        run("Вечер (Белов)")


def test_headers_notes_and_page_numbers_are_not_text() -> None:
    page = parse_page(
        '<div class="ws-noexport">Белов — <b>Вечер</b></div><table><tr><td>шапка</td></tr></table>'
        "<style>p {}</style><h2>Глава I<span class='mw-editsection'>[править]</span></h2>"
        "<p>Был <i>тихий</i>\nвечер<sup class='reference'>[1]</sup>.<br>Шёл&#160;дождь.</p>"
        "<p><span class='pagenum'>12</span></p><div class='references'><p>Так!</p></div>",
        "Вечер",
    )
    assert page.paragraphs == ["Глава I", "Был тихий вечер.", "Шёл\u00a0дождь."]


def test_shipped_list_names_each_page_once() -> None:
    rows = list_pages()
    assert len(rows) >= 20
    assert len({row["page"] for row in rows}) == len({row["file"] for row in rows}) == len(rows)
    for row in rows:
        assert row["genre"] in {"prose", "nonfiction"}
        assert row["file"].startswith("pushkin/")
        assert row["page"].endswith("(Пушкин)")
