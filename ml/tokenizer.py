"""Tokenizers of three kinds behind one interface, transformers' own: characters, words, BPE.

    tokenizer = train(documents, vocabulary=8192)           # or kind="character", "word"
    tokenizer.decode(tokenizer.encode("Ещё снег…"))         # any text comes back as it was
    tokenizer.save_pretrained("folder")                     # load("folder") reads it back

No input is unknown to any of them, so that bits per character compare models fairly: what a
vocabulary does not hold is spelled, rare words by characters and rare characters by bytes.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
KINDS = ("character", "word", "bpe")

# A word with the space before it, up to three digits, a run of signs, a paragraph's end.
_PIECES = Regex(r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n|[^\S\n]+")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# Rare letters (Ё, Ъ) would stay two bytes: seen this often, each earns a token.
_ALPHABET = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
_ALPHABET_REPEATS = 3000


def train(documents: Iterable[str], vocabulary: int, kind: str = "bpe") -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most ``vocabulary`` tokens; token 0 is the end of a text.

    Capitals, ё, dashes and paragraph ends stay what they are: nothing is normalised.
    """
    assert kind in KINDS, f"no tokenizer of the kind {kind!r}"
    tokenizer = (
        _train_bpe(documents, vocabulary)
        if kind == "bpe"
        else _take_commonest(documents, vocabulary, words=kind == "word")
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load(folder: Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer back from the folder it was saved to."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast), type(tokenizer)
    return tokenizer


def _train_bpe(documents: Iterable[str], vocabulary: int) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    letters = _ALPHABET + _ALPHABET.upper()
    alphabet = "\n".join(letters) + " " + " ".join(letters)  # inside a word, and beginning one
    bpe.train_from_iterator(chain(documents, [alphabet] * _ALPHABET_REPEATS), trainer)
    return bpe


def _take_commonest(documents: Iterable[str], vocabulary: int, *, words: bool) -> Tokenizer:
    """Return a tokenizer of the commonest characters and, in what room is left, words.

    It is a BPE without a single merge: a piece that is a token stays whole, another falls into
    characters, and those that are no tokens into bytes.
    """
    split = pre_tokenizers.Split(_PIECES, behavior="isolated")
    characters: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for document in documents:
        characters.update(document)
        if words:
            pieces.update(piece for piece, _ in split.pre_tokenize_str(document))
    tokens = [END_OF_TEXT, *_BYTES]
    tokens += [character for character, _ in characters.most_common(vocabulary - len(tokens))]
    room = vocabulary - len(tokens)
    whole = [piece for piece, times in pieces.most_common() if len(piece) > 1 and times > 1]
    tokens += whole[:room]
    ids = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, [], byte_fallback=True, ignore_merges=words))
    if words:
        tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
