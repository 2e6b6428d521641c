"""The tokenizer of our own models: byte-level BPE, so that no input is unknown to it.

tokenizer = train(documents, vocabulary=8192)
tokenizer.save_pretrained("folder")  # transformers' AutoTokenizer reads it back
"""

from collections.abc import Iterable
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

# A word with the space before it, up to three digits, a run of signs, a paragraph's end.
_PIECES = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n|[^\S\n]+"


# Rare letters (Ё, Ъ) would stay two bytes: seen this often, each earns a token.
_ALPHABET = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
_ALPHABET_REPEATS = 3000


def train(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a BPE of ``vocabulary`` tokens; token 0 is the end of a text.

    Capitals, ё, dashes and paragraph ends stay what they are: nothing is normalised.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
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
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
