"""The terminal's side of the console: text that grows in place, wrapped at words."""

import shutil
import textwrap
from typing import TextIO

WIDEST = 88  # columns; longer lines tire the eye


class Screen:
    """Prints blocks; the last one can be shown again and is then rewritten where it stands.

    Where the output is no terminal, every block is printed once, as it is.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tty = out.isatty()
        self._live: object = None  # the block that stands last
        self._lines: list[str] = []

    @property
    def in_place(self) -> bool:
        """Whether a block can be rewritten."""
        return self._tty

    def show(self, block: object, text: str) -> None:
        """Print a block, or what has changed in it if it is the last one; None has no name."""
        lines = self._wrap(text)
        if not self._tty or block is None or block != self._live:
            print("\n".join(lines), file=self._out, flush=True)
        else:
            self._rewrite(lines)
        self._live, self._lines = block, lines

    def rename(self, old: object, new: object) -> None:
        """Let the last block go on under another name."""
        if self._live == old:
            self._live = new

    def interrupt(self) -> None:
        """Note that something else stands last now, such as the reader's input."""
        self._live = None

    def ask(self) -> None:
        """Invite the reader to write."""
        if self._tty:
            self._live = None
            print("› ", end="", file=self._out, flush=True)

    def _rewrite(self, lines: list[str]) -> None:
        same = 0
        while same < min(len(lines), len(self._lines)) and lines[same] == self._lines[same]:
            same += 1
        up = min(len(self._lines) - same, shutil.get_terminal_size().lines - 1)
        moved = f"\x1b[{up}A" if up else ""
        rest = "".join(f"{line}\n" for line in lines[same:])
        print(f"{moved}\r\x1b[J{rest}", end="", file=self._out, flush=True)

    def _wrap(self, text: str) -> list[str]:
        if not self._tty:
            return [text]
        width = min(WIDEST, shutil.get_terminal_size().columns - 1)
        wrapped = (
            textwrap.wrap(line, width, break_on_hyphens=False) or [""] for line in text.split("\n")
        )
        return [line for paragraph in wrapped for line in paragraph]
