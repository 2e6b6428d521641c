"""The terminal: text that grows in place shows on a real terminal what it should."""

import io
import os
import re

import pytest

from bot.screen import Screen


class Tty(io.StringIO):
    """A terminal of 40 columns that remembers what was written."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """Return the lines a reader sees: moves up and erasures carried out."""
        lines, row = [""], 0
        for move, erase, newline, text in re.findall(
            r"\x1b\[(\d+)A|(\x1b\[J)|(\n)|([^\x1b\n\r]+)", self.getvalue()
        ):
            if move:
                row -= int(move)
            elif erase:
                lines = [*lines[:row], ""]
            elif newline:
                row += 1
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] += text
        return lines


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Tty:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 24)))
    return Tty()


def test_text_grows_in_place(tty: Tty) -> None:
    screen = Screen(tty)
    for text in ("Мороз", "Мороз и солнце", "Мороз и солнце; день чудесный, и все ещё спали."):
        screen.show("draft", text)
    assert tty.shown() == ["Мороз и солнце; день чудесный, и все", "ещё спали.", ""]


def test_a_shorter_text_takes_the_longer_ones_place(tty: Tty) -> None:
    screen = Screen(tty)
    screen.show("draft", "Он встал. Потом он сел и стал думать о том, что")
    screen.show("draft", "Он встал.")
    assert tty.shown() == ["Он встал.", ""]


def test_an_older_block_is_printed_anew(tty: Tty) -> None:
    screen = Screen(tty)
    screen.show(1, "первое")
    screen.show(2, "второе")
    screen.show(1, "снова первое")
    assert tty.shown() == ["первое", "второе", "снова первое", ""]


def test_after_the_readers_input_nothing_is_rewritten(tty: Tty) -> None:
    screen = Screen(tty)
    screen.show(1, "первое")
    screen.interrupt()
    screen.show(1, "первое и ещё")
    assert tty.shown() == ["первое", "первое и ещё", ""]


def test_a_nameless_block_never_takes_anothers_place(tty: Tty) -> None:
    """Once a toast after the reader's input erased the story above it."""
    screen = Screen(tty)
    screen.show(1, "история")
    screen.interrupt()
    screen.show(None, "спасибо")
    screen.show(None, "и ещё раз")
    assert tty.shown() == ["история", "спасибо", "и ещё раз", ""]


def test_a_draft_becomes_the_message(tty: Tty) -> None:
    screen = Screen(tty)
    screen.show("draft", "Кот спал")
    screen.rename("draft", 7)
    screen.show(7, "Кот спал.")
    assert tty.shown() == ["Кот спал.", ""]


def test_a_pipe_gets_plain_text_without_wrapping() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.show(1, "слово " * 40)
    screen.ask()
    assert out.getvalue() == "слово " * 40 + "\n"
