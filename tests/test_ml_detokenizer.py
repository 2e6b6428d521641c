"""Tokens into text, whatever a model draws."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models

from ml.detokenizer import Detokenizer

MINI = Path("ml/pretrained/pushkin-mini/tokenizer.json")


@pytest.fixture
def a_token_a_byte() -> Tokenizer:
    """What Llama's tokenizer does with letters it has no token for."""
    words = {"<unk>": 0, "A": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def test_text_comes_back_letter_by_letter() -> None:
    tokenizer = Tokenizer.from_file(str(MINI))
    text = "Ещё снег…\n— «Мороз» и солнце 🪶"
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(detokenizer.step(token) for token in ids) == text


def test_bytes_that_are_no_letter_end_no_story(a_token_a_byte: Tokenizer) -> None:
    letter = [2 + byte for byte in "я".encode()]
    detokenizer = Detokenizer(a_token_a_byte)
    written = "".join(detokenizer.step(token) for token in [*letter, letter[0], 1, 1, *letter, 1])
    assert written.startswith("я")
    assert written.endswith("яA")
