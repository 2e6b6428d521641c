"""The fast way to tokens is tested against the slow, obvious one."""

import random
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from ml.encoding import WordCache, encode_stream
from ml.tokenizer import END_OF_TEXT, train
from tests import toy

Encode = Callable[[str], list[int]]

AWKWARD = [
    "",
    " ",
    "\n",
    "\n\n  \n",
    "Он  вышел… —\t«Да-с!»\r\n",
    "a\x1c.\x1c b\x85c\u00a0d\u2003 e\u200bf",
    "½Ⅳ²слово½ слово1799год 1799 12345",
    "cafe\u0301 ё\u0301лка и\u0306",
    "😀👍🏽слово😀 слово",
    f"до {END_OF_TEXT} после{END_OF_TEXT}сразу",
    "слово" * 40 + ", " + "!" * 100,
    "Что?..— Да",
    " начало и конец ",
]


@pytest.fixture(scope="module")
def encode() -> Encode:
    tokenizer = train([text for *_, text in toy.WORKS] * 3, vocabulary=600)
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", [*AWKWARD, *(work[-1] for work in toy.WORKS)])
def test_cache_gives_the_librarys_tokens(encode: Encode, text: str) -> None:
    cache = WordCache(encode)
    for _ in range(2):  # before it knows the words, and after
        assert cache(text).tolist() == encode(text)


@pytest.fixture(scope="module")
def number_pieces() -> Encode:
    """One token a piece: shows every place where the tokenizer cuts, merges or not."""
    splitter = train(["а"], vocabulary=300).backend_tokenizer.pre_tokenizer
    return lambda text: [
        zlib.crc32(piece.encode()) % 2**16 for piece, _ in splitter.pre_tokenize_str(text)
    ]


@pytest.mark.parametrize("way", ["encode", "number_pieces"])
def test_cache_gives_the_librarys_tokens_of_random_strings(
    way: str, request: pytest.FixtureRequest
) -> None:
    encode = request.getfixturevalue(way)
    draw = random.Random(1799)
    cache = WordCache(encode, size=50)  # forgets often
    signs = [*"аяёЁЯzé1½ \n\t\u00a0\x1c\x85,.…!?—-«»'_*\u0301😀", "слово", " Он", END_OF_TEXT]
    for _ in range(3000):
        text = "".join(draw.choices(signs, k=draw.randint(0, 20)))
        assert cache(text).tolist() == encode(text), repr(text)


def test_cache_asks_for_a_word_once(encode: Encode) -> None:
    asked: list[str] = []

    def spy(text: str) -> list[int]:
        asked.append(text)
        return encode(text)

    cache = WordCache(spy)
    cache("сугроб и сугроб")
    asked.clear()
    cache("сугроб и сугроб")
    assert asked == []


def test_memory_of_words_is_bounded(encode: Encode) -> None:
    cache = WordCache(encode, size=100)
    for number in range(1000):
        cache(f" слово{number}")
    cache(" " + "д" * 1000)
    assert len(cache._words) <= 100
    assert max(map(len, cache._words)) <= 65


def test_tokenizer_that_joins_words_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the word"):  # one token across a space
        WordCache(lambda text: [ord(sign) for sign in text.replace("л в", "л")])
    with pytest.raises(ValueError, match="more than the word"):  # a beginning of its own
        WordCache(lambda text: [1, *map(ord, text)])


@pytest.mark.parametrize("block", [1, 7, 100, 10**6])
@pytest.mark.parametrize(
    "paragraphs", [[], [""], ["Один."], ["", "", ""], toy.EVENING.split("\n"), ["а ", " б", ""]]
)
def test_stream_equals_the_joined_text(encode: Encode, paragraphs: list[str], block: int) -> None:
    stream = list(encode_stream(iter(paragraphs), WordCache(encode), end=0, block=block))
    assert all(tokens.dtype == np.uint16 for tokens in stream)
    assert np.concatenate(stream).tolist() == [*encode("\n".join(paragraphs)), 0]


def test_stream_gives_blocks_before_it_has_read_all(encode: Encode) -> None:
    read = []

    def paragraphs():
        for number in range(100):
            read.append(number)
            yield "Был вечер."

    next(encode_stream(paragraphs(), WordCache(encode), block=30))
    assert len(read) == 3
