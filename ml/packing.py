"""Documents into rows of one length: nearly no padding, and no document sees another.

    packed = pack_documents([tokenizer.encode(text) for text in texts], window=2048, end=0)
    packed.ids, packed.labels, packed.positions, packed.share

A document is end of text, its tokens, end of text. Every token but the first is a label exactly
once: a document longer than a row, or cut to fill a hole, goes on in another row behind its last
token, which is repeated as context only. Positions begin anew with each piece, and by that
transformers keeps the pieces apart (``masking_utils.find_packed_sequence_indices``).

Shapes: R rows, T tokens of the window.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -100  # what PyTorch's cross-entropy leaves out
_SMALLEST = 4  # tokens of a piece that is cut off to fill a hole


@dataclass(frozen=True)
class Piece:
    """Tokens ``begin`` to ``end`` of a document, its ends of text counted; the first is context."""

    document: int
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Packed:
    """Rows to train on, each (R, T); a data set whose items are what a model takes."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """How many positions carry a loss."""
        return int((self.labels != NO_LABEL).sum())

    @property
    def share(self) -> float:
        """The share of the positions that carry a loss."""
        return self.tokens / self.labels.size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, NDArray[np.int64]]:
        return {
            "input_ids": self.ids[row],
            "labels": self.labels[row],
            "position_ids": self.positions[row],
        }


def pack_documents(
    documents: Sequence[Sequence[int]],
    *,
    window: int,
    end: int,
    bar: float = 0.98,
    multiple: int = 1,
) -> Packed:
    """Return the documents' tokens in rows of ``window``, padded by ``end`` without a label.

    Rows without any label follow until their number is a multiple of ``multiple``: so many are
    taken at once, and a row taken twice instead would be learnt twice.
    """
    rows = arrange([len(document) + 2 for document in documents], window, bar)
    shape = (-(-len(rows) // multiple) * multiple, window)
    ids, labels = np.full(shape, end), np.full(shape, NO_LABEL)
    positions = np.tile(np.arange(window), (shape[0], 1))
    for number, row in enumerate(rows):
        place = 0
        for piece in row:
            after = place + len(piece)
            framed = np.array([end, *documents[piece.document], end])
            ids[number, place:after] = framed[piece.begin : piece.end]
            labels[number, place + 1 : after] = ids[number, place + 1 : after]
            positions[number, place:] = np.arange(window - place)
            place = after
        positions[number, place:] = np.arange(window - place)
    return Packed(ids, labels, positions)


def arrange(lengths: Sequence[int], window: int, bar: float) -> list[list[Piece]]:
    """Place documents of these lengths in rows: best fit decreasing, then the holes filled.

    As long as less than ``bar`` of the positions carry a loss, the emptiest row is cut into what
    the holes of the others take. A last row that no others can take stays as it is.
    """
    pieces = [
        piece for number, length in enumerate(lengths) for piece in _cut(number, length, window)
    ]
    rows: list[list[Piece]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for piece in sorted(pieces, key=len, reverse=True):
        best = bisect_left(rooms, (len(piece), 0))
        if best < len(rooms):
            room, row = rooms.pop(best)
        else:
            room, row = window, len(rows)
            rows.append([])
        rows[row].append(piece)
        insort(rooms, (room - len(piece), row))
    return _fill([rows[row] for _, row in rooms], window, bar)


def _cut(document: int, length: int, window: int) -> list[Piece]:
    """Cut a document into pieces of a row at most, each beginning with the last token before it."""
    begins = range(0, max(1, length - 1), window - 1)
    return [Piece(document, begin, min(begin + window, length)) for begin in begins]


def _fill(rows: list[list[Piece]], window: int, bar: float) -> list[list[Piece]]:
    """Empty the last rows into the holes of the others; the rows come with the fullest first."""
    holes = [(sum(map(len, row)) - window, number) for number, row in enumerate(rows)]
    heapq.heapify(holes)  # the largest first, as a negative number
    losses = sum(len(piece) - 1 for row in rows for piece in row)
    while len(rows) > 1 and losses < bar * len(rows) * window:
        rest = sorted(rows.pop(), key=len)
        holes = [(room, number) for room, number in holes if number < len(rows)]
        heapq.heapify(holes)
        while rest and -holes[0][0] >= _SMALLEST:
            piece = rest.pop()
            room = -holes[0][0]
            part = Piece(piece.document, piece.begin, min(piece.begin + room, piece.end))
            rows[holes[0][1]].append(part)
            heapq.heapreplace(holes, (len(part) - room, holes[0][1]))
            if part.end < piece.end:
                rest.append(Piece(piece.document, part.end - 1, piece.end))
        if rest:
            rows.append(rest)
            break
    return rows
