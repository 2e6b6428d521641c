"""Openings and continuations: nothing lost, and one figure for two kinds of models."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from ml.evaluate import bits_per_character
from ml.pairs import Pair, PairRows, bits_of_continuations, cut, teach_letters
from tests import toy


def codec() -> PreTrainedTokenizerFast:
    """The toy tokenizer with what padding needs."""
    made = PreTrainedTokenizerFast(tokenizer_object=toy.toy_tokenizer().backend_tokenizer)
    made.add_special_tokens({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    return made


def test_continuations_follow_each_other_without_a_gap() -> None:
    pairs = cut([toy.EVENING], opening=40, continuation=60)
    first = pairs[0].opening
    assert first + "".join(pair.continuation for pair in pairs) == toy.EVENING
    assert len(first) >= 40
    for pair in pairs:
        assert pair.continuation[0].isspace()
        assert not pair.opening[0].isspace()
        assert toy.EVENING.find(pair.opening + pair.continuation) >= 0


def test_too_short_a_document_gives_no_pair() -> None:
    assert cut(["Зима."], opening=40, continuation=60) == []


def test_every_document_gives_its_own_pairs() -> None:
    one = cut([toy.EVENING], opening=40, continuation=60)
    two = cut([toy.ROAD], opening=40, continuation=60)
    assert cut([toy.EVENING, toy.ROAD], opening=40, continuation=60) == [*one, *two]


def test_causal_figure_is_the_difference_of_whole_and_opening() -> None:
    model, tokenizer = toy.toy_model(300, context=256, sharpen=3), codec()
    pair = Pair("Старый дом стоял", " на горе, и окна его горели.")
    bits = [
        bits_per_character(model, tokenizer, [text], context=256) * len(text)
        for text in (pair.opening, pair.opening + pair.continuation)
    ]
    figure = bits_of_continuations(model.model, tokenizer, [pair])
    assert figure * len(pair.continuation) == pytest.approx(bits[1] - bits[0], rel=1e-4)


def test_figure_does_not_depend_on_what_is_padded_beside() -> None:
    model, tokenizer = toy.toy_model(300, context=256, sharpen=3).model, codec()
    pairs = cut([toy.EVENING, toy.ROAD], opening=30, continuation=50)
    signs = [len(pair.continuation) for pair in pairs]
    alone = [bits_of_continuations(model, tokenizer, [pair]) for pair in pairs]
    mean = sum(a * n for a, n in zip(alone, signs, strict=True)) / sum(signs)
    assert bits_of_continuations(model, tokenizer, pairs) == pytest.approx(mean, rel=1e-4)


def test_encoder_decoder_is_measured_by_the_librarys_own_loss() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=300,
        max_position_embeddings=128,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )
    model, tokenizer = BartForConditionalGeneration(config).eval(), codec()
    pair = cut([toy.EVENING], opening=30, continuation=50)[0]
    row = PairRows(tokenizer, [pair])[0]
    with torch.inference_mode():
        loss = model(
            input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])
        ).loss.item()
    expected = loss * len(row["labels"]) / math.log(2) / len(pair.continuation)
    assert bits_of_continuations(model, tokenizer, [pair]) == pytest.approx(expected, rel=1e-4)


def test_signs_a_vocabulary_lacks_get_tokens_of_their_own() -> None:
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), ("a", -2.0), (".", -2.0)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    english = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )
    assert english.unk_token_id in english.encode("Да.", add_special_tokens=False)
    assert teach_letters(english, ["Да. a", "д"]) == 3
    ids = english.encode("Да. д a", add_special_tokens=False)
    assert english.unk_token_id not in ids
    assert teach_letters(english, ["Да."]) == 0


def test_a_bytes_tokenizer_lacks_nothing() -> None:
    assert teach_letters(codec(), [toy.EVENING, "Évariste 漢字\n\n\t…"]) == 0
