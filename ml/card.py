"""What an engine says of its model, and how a local one cuts a request to what the model holds.

card = describe("ml/pretrained/pushkin-mini", "106a05737f36", context=512, encode=encode)
ids = prompt_ids(request, card, encode, end=0)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.engine import ModelCard, PromptTooLongError, Request

STORY_TOKENS = 160  # room an opening must leave for its continuation
# Below so many parameters a step is so short that threads on the CPU mostly wait for each other,
# and for any other process: on two cores one thread wrote pushkin-mini's stories faster (LOG.md).
SMALL = 50_000_000
# Our own lines, to learn how many characters of Russian prose a token of this model is worth.
SAMPLE = (
    "Вечер был тихий; дорога шла полем, и старый ямщик, помахивая кнутом, рассказывал проезжему "
    "о том, как прошлою зимой занесло снегом почтовую тройку. — И что же, — спросил офицер, — "
    "нашли их? — Нашли, барин, — отвечал он, — да только весною."
)

Encode = Callable[[str], list[int]]


def describe(source: str, version: str, *, context: int, encode: Encode) -> ModelCard:
    """Return the card of a model folder or a hub id; ``version`` names its weights.

    ``context`` is what the model holds, in tokens. Raises ValueError for a ``meta.json`` that is
    no JSON.
    """
    folder = Path(source)
    meta: dict[str, Any] = {}
    if (folder / "meta.json").is_file():
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
    tokens, characters = limits(context, len(SAMPLE) / len(encode(SAMPLE)))
    return ModelCard(
        name=meta.get("name", folder.name if folder.is_dir() else source),
        version=version,
        prompt_tokens=tokens,
        prompt_characters=characters,
        meta=meta,
    )


def limits(context: int, worth: float) -> tuple[int, int]:
    """Return how many tokens an opening may take, and about how many characters those are.

    ``context`` is what the model holds, in tokens; ``worth`` is a token's characters of prose.
    """
    tokens = context - min(STORY_TOKENS, context // 2)
    # Rounded down, so that hardly any opening of this length is refused for its tokens.
    return tokens, max(100, int(tokens * worth * 0.8) // 100 * 100)


def prompt_ids(request: Request, card: ModelCard, encode: Encode, end: int) -> list[int]:
    """Return what the model continues; a story it continues loses its beginning where it must.

    Nothing at all is continued from ``end``, the token between texts. Raises PromptTooLongError.
    """
    own = len(encode(request.prompt))
    if own > card.prompt_tokens:
        raise PromptTooLongError(own, card.prompt_tokens)
    ids = encode(" ".join(filter(None, (request.context, request.prompt))))
    return ids[-card.prompt_tokens :] or [end]
