"""How a text is drawn from a model's scores, and where it ends: all settings of it in one place.

    PRESETS["bold"]                     # as named
    chosen({"top_p": 0.5}, Sampling())  # with a job's own settings in place
    trim("Он вышел. Шёл")               # "Он вышел."

The filters work in transformers' order: repetition penalty, temperature, top-k, top-p, min-p.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

_SENTENCE_END = re.compile(r"\w[»”\")]*[.!?…]+[»”\")]*(?=\s|$)")


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, and how many at most. Raises ValueError for what cannot be.

    The end of a text may be drawn like any token; no n-gram is forbidden.
    """

    temperature: float = 0.8  # towards 0 the likeliest token
    top_p: float = 0.9  # 1: off
    top_k: int = 60  # 0: off; 1: always the likeliest token
    max_tokens: int = 320
    min_p: float = 0.0  # a share of the likeliest token's probability; 0: off
    repetition_penalty: float = 1.0  # 1: off; above it, what was said is less likely

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            low, high = RANGES[field.name]
            # A whole number may stand for a real one, as in JSON; a bool is no number.
            if type(value) not in (int, kind) or not low <= value <= high:
                word = "a whole number" if kind is int else "a number"
                raise ValueError(f"{field.name} must be {word} from {low} to {high}: {value!r}")


# Ends included. Beyond them nothing changes any more, or scores overflow.
RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.01, 100),
    "top_p": (0.01, 1),
    "top_k": (0, 1_000_000),
    "max_tokens": (1, 1_000_000),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
}

PRESETS: Mapping[str, Sampling] = {
    "pushkin": Sampling(),  # what readers get
    "bold": Sampling(temperature=0.9, top_p=0.92, top_k=200),
}
# The decoding this project began with, as arguments of transformers' ``generate``, for comparison
# only: its beams and its ban on n-grams are beyond the engines. The length counts the prompt.
SEED: Mapping[str, Any] = {
    "do_sample": True,
    "max_length": 256,
    "num_beams": 2,
    "no_repeat_ngram_size": 2,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.5,
}


def chosen(settings: Mapping[str, Any], default: Sampling) -> Sampling:
    """Return ``default`` with the settings in its place; unknown names are left out.

    Raises ValueError for a value out of its range.
    """
    known = {field.name for field in fields(Sampling)}
    return replace(default, **{name: settings[name] for name in settings.keys() & known})


def trim(text: str) -> str:
    """Cut an unfinished last sentence off; a text without a whole sentence stays as it is."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text.rstrip()
