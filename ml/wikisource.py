"""Download of texts from ru.wikisource by MediaWiki's API, politely and resumably.

download(Path("data/corpus/raw"))  # -> the texts and their SOURCES.tsv

``ml/data/wikisource.tsv`` lists the pages. A work whose chapters are subpages («Дубровский
(Пушкин)/Глава I») is followed through the links of its page. Every answer is kept under
``pages/``, so that a page on disk is not asked for again. One request at a time with a pause
between, ``maxlag``, a User-Agent, and on 429 or 5xx a wait that doubles or that Retry-After names
(https://www.mediawiki.org/wiki/API:Etiquette).
"""

import csv
import re
import time
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from tqdm import tqdm

from ml.corpus import COLUMNS, CorpusError, read_lines
from ml.results import write_text

PAGES = Path(__file__).parent / "data" / "wikisource.tsv"
URL = "https://ru.wikisource.org/w/api.php"
PAUSE = 1.0  # seconds between requests
ATTEMPTS = 6
INDEX_PAGE = 2000  # characters: a page with editions and less text than this only lists them
USER_AGENT = "neuropushkin-corpus/0.1 (a research corpus; one request a second) httpx"

_EDITION = re.compile(r"/(?:[^/]*\((?:СО|ДО)\)|СО|ДО)(?:/|$)")  # spelling: modern, pre-reform

Sleep = Callable[[float], None]


class WikiError(Exception):
    """The wiki did not give a page: the message names the page and what happened."""


class Wiki:
    """Pages of one wiki, from ``folder`` if they are there, else from the network."""

    def __init__(self, folder: Path, url: str, pause: float, sleep: Sleep) -> None:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"}
        self.client = httpx.Client(headers=headers, timeout=30, follow_redirects=True)
        self._folder, self._url, self._pause, self._sleep = folder, url, pause, sleep

    def read(self, title: str) -> str:
        """Return a page's rendered HTML; raises WikiError, CorpusError when the disk is full."""
        path = self._folder / (title.replace("%", "%25").replace("/", "%2F") + ".html")
        if path.is_file():
            return "\n".join(read_lines(path))
        parameters = {"action": "parse", "page": title, "prop": "text", "redirects": "1"}
        answer = self._ask(title, parameters)
        html: str = answer["parse"]["text"]
        write_page(path, html)
        return html

    def _ask(self, title: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        fixed = {"format": "json", "formatversion": "2", "maxlag": "5"}
        wait, trouble = self._pause, ""
        for attempt in range(ATTEMPTS):
            self._sleep(wait)
            wait, trouble = max(self._pause, 1.0) * 2 ** (attempt + 1), ""
            try:
                response = self.client.get(self._url, params={**parameters, **fixed})
                named = response.headers.get("Retry-After", "")
                if response.status_code == 429 or response.status_code >= 500:
                    trouble = f"HTTP {response.status_code}"
                elif response.status_code != 200:
                    raise WikiError(f"{title}: HTTP {response.status_code} from {self._url}")
                else:
                    answer: dict[str, Any] = response.json()
                    if not isinstance(answer, dict):
                        raise WikiError(f"{title}: {self._url} is not MediaWiki's api.php")
                    error = answer.get("error", {})
                    if "parse" in answer:
                        return answer
                    if error.get("code") not in {"maxlag", "ratelimited", "readonly"}:
                        said = error.get("info", "an answer without a text")
                        raise WikiError(f"{title}: {said}")
                    trouble = str(error["code"])
                if named.isdigit():
                    wait = max(self._pause, float(named))
            except ValueError:
                trouble = "an answer that is not JSON, or cut short"
            except httpx.InvalidURL as error:
                raise WikiError(f"{self._url}: not an address ({error})") from error
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
        raise WikiError(f"{title}: gave up after {ATTEMPTS} attempts: {trouble} ({self._url})")


def download(
    folder: Path,
    *,
    pages: Path = PAGES,
    url: str = URL,
    pause: float = PAUSE,
    sleep: Sleep = time.sleep,
) -> None:
    """Write the listed works and SOURCES.tsv into ``folder``; a second call goes on.

    Raises WikiError for a page that cannot be had, CorpusError for a disk that is full.
    """
    rows = list_pages(pages)
    wiki = Wiki(folder / "pages", url, pause, sleep)
    with wiki.client:
        for row in tqdm(rows, unit="work", disable=None):
            text = read_work_pages(wiki, row["page"])
            if not text.strip():
                raise WikiError(f"{row['page']}: no paragraphs on the page")
            write_page(folder / row["file"], text)
    table = ["\t".join(COLUMNS), *("\t".join(row[name] for name in COLUMNS) for row in rows)]
    write_page(folder / "SOURCES.tsv", "\n".join(table) + "\n")


def list_pages(path: Path = PAGES) -> list[dict[str, str]]:
    """Return the rows of the list: file, author, title, genre and page."""
    lines = (line for line in read_lines(path) if line and not line.startswith("#"))
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def read_work_pages(wiki: Wiki, title: str) -> str:
    """Return a work's text: its page's paragraphs, then its subpages', in the page's order.

    A page that lists editions («…/1978 (СО)», «…/ДО») is not the text: one edition is taken, in
    the modern spelling (СО) if there is one, lest the text come twice.
    """
    page = parse_page(wiki.read(title), title)
    editions = [name for name in page.subpages if _EDITION.search(name.removeprefix(title))]
    if editions and sum(map(len, page.paragraphs)) < INDEX_PAGE:
        modern = [name for name in editions if "СО" in name.removeprefix(title)]
        return read_work_pages(wiki, (modern or editions)[0])
    parts = page.paragraphs
    for subpage in page.subpages:
        if subpage not in editions:
            heading = subpage.removeprefix(title + "/")
            parts = [*parts, heading, *parse_page(wiki.read(subpage), subpage).paragraphs]
    return "\n".join(parts) + "\n"


def parse_page(html: str, title: str) -> "Page":
    """Return the paragraphs of rendered HTML, headings as paragraphs, and links to subpages."""
    page = Page(title)
    page.feed(html)
    page.close()
    return page


_BLOCKS = {"p", "div", "li", "dd", "blockquote", "br", "tr", "h1", "h2", "h3", "h4", "h5", "h6"}
_VOID = {"br", "hr", "img", "input", "link", "meta", "wbr", "col", "area"}
_SKIPPED_TAGS = {"table", "style", "script", "ol", "sup"}  # headers, footnotes, their marks
_SKIPPED_CLASSES = {"ws-noexport", "noprint", "mw-editsection", "pagenum", "ws-pagenum"}
_SKIPPED_CLASSES |= {"reference", "references", "toc"}


class Page(HTMLParser):
    """The readable part of one page: headers, footnotes and page numbers left out."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.subpages: list[str] = []
        self._title = title
        self._words = ""
        self._open: list[tuple[str, bool]] = []  # tag, is it skipped

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            self._follow(values.get("href", ""))
        if tag in _BLOCKS:
            self._end_paragraph()
        if tag not in _VOID:
            skipped = tag in _SKIPPED_TAGS or bool(
                _SKIPPED_CLASSES & set(values.get("class", "").split())
            )
            self._open.append((tag, skipped))

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._end_paragraph()
        while self._open and any(name == tag for name, _ in self._open):
            if self._open.pop()[0] == tag:
                break

    def handle_data(self, data: str) -> None:
        if not any(skipped for _, skipped in self._open):
            self._words += data.replace("\n", " ")

    def close(self) -> None:
        super().close()
        self._end_paragraph()

    def _end_paragraph(self) -> None:
        if self._words.strip():
            self.paragraphs.append(self._words.strip())
        self._words = ""

    def _follow(self, href: str) -> None:
        name = unquote(href.split("#")[0]).removeprefix("/wiki/").replace("_", " ")
        if not name.startswith(self._title + "/"):
            return
        child = "/".join(name.split("/")[: self._title.count("/") + 2])
        if child not in self.subpages:
            self.subpages.append(child)


def write_page(path: Path, text: str) -> None:
    """Write a file whole or not at all; a full disk is a CorpusError that names it."""
    try:
        write_text(path, text)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written: {error.strerror}") from error
