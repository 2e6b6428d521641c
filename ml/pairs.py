"""An opening and its continuation: what encoder-decoder models learn, and all can be compared by.

    pairs = cut(documents, opening=200, continuation=400)
    bits_of_continuations(model, tokenizer, pairs)   # given the opening, a bit count a character

A document is cut at spaces into continuations that follow each other without a gap; the opening is
what stands before one. So every sign behind a document's first opening is foretold exactly once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

_TOGETHER = 8  # pairs in one call


@dataclass(frozen=True)
class Pair:
    """A continuation begins with the space or line break that parts it from its opening."""

    opening: str
    continuation: str


def cut(documents: Sequence[str], *, opening: int, continuation: int) -> list[Pair]:
    """Cut documents into pairs of about so many characters; shorter documents give none."""
    pairs = []
    for document in documents:
        begin = _border(document, opening)
        while begin < len(document):
            end = _border(document, begin + continuation)
            start = begin - opening
            if start > 0 and not document[start - 1].isspace():  # no half word at the start
                start = _border(document, start) + 1
            pairs.append(Pair(document[max(0, start) : begin], document[begin:end]))
            begin = end
    return pairs


def _border(text: str, place: int) -> int:
    """Return the first place from ``place`` on where a space or a line break stands."""
    return next((n for n in range(place, len(text)) if text[n].isspace()), len(text))


class PairRows(list[dict[str, list[int]]]):
    """Pairs as rows for transformers' Seq2Seq collator: ids of the opening, labels of the rest."""

    def __init__(self, tokenizer: Any, pairs: Sequence[Pair]) -> None:
        super().__init__(
            {
                "input_ids": tokenizer(pair.opening).input_ids,
                "labels": tokenizer(text_target=pair.continuation).input_ids,
            }
            for pair in pairs
        )

    @property
    def positions(self) -> int:
        """How many tokens a pass takes through the encoder and the decoder together."""
        return sum(len(row["input_ids"]) + len(row["labels"]) for row in self)

    @property
    def longest(self) -> int:
        """How many tokens the longest opening or continuation takes."""
        return max((len(ids) for row in self for ids in row.values()), default=0)

    @property
    def tokens(self) -> int:
        """How many tokens carry a loss."""
        return sum(len(row["labels"]) for row in self)


def teach_letters(tokenizer: Any, documents: Sequence[str]) -> int:
    """Add a token for every sign that the tokenizer does not know; return how many.

    Unknown signs would cost a model next to nothing and make its figure meaningless: T5's English
    vocabulary has no Cyrillic letter and no line break.
    """

    def known(sign: str) -> bool:
        ids = tokenizer.encode(sign, add_special_tokens=False)
        return tokenizer.unk_token_id not in ids and ids not in ([], blank)

    blank = tokenizer.encode(" ", add_special_tokens=False)
    signs = sorted({sign for document in documents for sign in document} - {" "})
    missing = [sign for sign in signs if not known(sign)]
    return int(tokenizer.add_tokens(missing))


@torch.inference_mode()
def bits_of_continuations(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> float:
    """Return bits per character of the continuations, each given its opening.

    Of any model of transformers, decoder or encoder-decoder. Ends of text and other special tokens
    are not scored, as in ml.evaluate. A causal model sees end of text, opening, continuation.
    """
    model.eval()
    rows = [_row(model, tokenizer, pair) for pair in pairs]
    rows.sort(key=lambda row: -len(row[1]))
    special = torch.tensor(tokenizer.all_special_ids)
    nats = 0.0
    for first in range(0, len(rows), _TOGETHER):
        some = rows[first : first + _TOGETHER]
        inputs, mask = _pad([given for given, _ in some], 0)
        labels, _ = _pad([foretold for _, foretold in some], -100)
        inputs, mask, labels = (part.to(model.device) for part in (inputs, mask, labels))
        if model.config.is_encoder_decoder:
            decoder = model.prepare_decoder_input_ids_from_labels(labels=labels)
            logits = model(
                input_ids=inputs, attention_mask=mask, decoder_input_ids=decoder, use_cache=False
            ).logits
        else:  # to the right of a row there is only padding, which no token sees
            logits = model(inputs[:, :-1], use_cache=False).logits
            labels = labels[:, 1:]
        labels = labels.masked_fill(torch.isin(labels, special.to(labels.device)), -100)
        nats += functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        ).item()
    return nats / math.log(2) / sum(len(pair.continuation) for pair in pairs)


def _row(model: Any, tokenizer: Any, pair: Pair) -> tuple[list[int], list[int]]:
    """Return what the model is given and its labels, for a causal model of the same length."""
    if model.config.is_encoder_decoder:
        labels = tokenizer(text_target=pair.continuation).input_ids
        return tokenizer(pair.opening).input_ids, labels
    opening, continuation = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in (pair.opening, pair.continuation)
    )
    ids = [tokenizer.eos_token_id, *opening, *continuation]
    return ids, [-100] * (1 + len(opening)) + continuation


def _pad(rows: list[list[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows (B, T) padded on the right and their mask (B, T)."""
    length = max(map(len, rows))
    padded = [row + [filler] * (length - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return torch.tensor(padded), torch.tensor(mask)
