"""What to ask for and what it may cost: themes, prompts, the order of stories, the estimate.

orders = plan(load_themes(THEMES_FILE), per_theme=5, limit=100)
request = Request("gpt-4o-mini", load_price(PRICES_FILE, "gpt-4o-mini"))
print(estimate(orders, request, concurrency=8), body(orders[0], request))
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
THEMES_FILE = DATA / "themes.json"
PRICES_FILE = DATA / "prices.json"
GROUPS = ("strange", "modern", "film", "funny", "fantasy", "classic")
BATCH_SHARE = 0.5  # of the price, https://developers.openai.com/api/docs/guides/batch
# The first project's gpt-4o-mini: one Russian story of some 3,080 characters.
STORY_TOKENS, STORY_SECONDS = 1140, 12.0
CHARACTERS_PER_TOKEN = 3080 / 1140

SYSTEM = (
    "Ты — литературный помощник, и нет у тебя большей радости, чем сочинять прозу так, как писал "
    "её Александр Сергеевич Пушкин: просто, быстро и ясно, с лёгкой насмешкой, языком его времени. "
    "За какой бы неожиданный предмет ты ни взялся, хотя бы вовсе неизвестный в его веке, ты "
    "рассказываешь о нём его слогом. Пишешь ты только по-русски. Готовых фраз из его сочинений "
    "не повторяешь, героев и происшествия выдумываешь сам."
)
PROMPT = (
    "Напиши законченный рассказ на тему: «{theme}». В нём должно быть не более 3000 знаков. "
    "Пришли один только текст рассказа: без заглавия, без сносок, без предисловия и пояснений."
)
MESSAGE_TOKENS = 16  # more than any chat format adds around one message


class SyntheticError(Exception):
    """Why no more stories come: one line for the person at the terminal."""


@dataclass(frozen=True)
class Theme:
    """What a story is about; ``group`` is one of GROUPS."""

    group: str
    text: str


@dataclass(frozen=True)
class Order:
    """One story to be written: the ``number``-th (from 1) on its theme."""

    theme: Theme
    number: int

    @property
    def id(self) -> str:
        """The same in every run, whatever stands around the theme in its file."""
        return hashlib.sha256(f"{self.theme.text}\n{self.number}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return dollars. Cached input counts in full, so this is never too little."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6

    def in_batch(self) -> "Price":
        """Return the price of the same tokens in a batch."""
        return Price(self.input * BATCH_SHARE, self.output * BATCH_SHARE)


@dataclass(frozen=True)
class Request:
    """What every request of a run says."""

    model: str
    price: Price
    max_tokens: int = 2000  # the first project's longest story had some 1,470
    temperature: float | None = None  # None: the provider's default


@dataclass(frozen=True)
class Estimate:
    """What a run should take: tokens, US dollars, seconds; ``worst``: no try costs more."""

    stories: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    worst: float
    seconds: float


def load_themes(path: Path) -> list[Theme]:
    """Read ``{"strange": ["…", …], …}``. Raises SyntheticError."""
    groups = _load_object(path)
    themes: list[Theme] = []
    seen: set[str] = set()
    for group, texts in groups.items():
        if group not in GROUPS:
            raise SyntheticError(f"{path}: no such group: {group!r}; there are {', '.join(GROUPS)}")
        if not isinstance(texts, list):
            raise SyntheticError(f"{path}: {group} should be a list of themes")
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise SyntheticError(f"{path}: {group}: not a theme: {text!r}")
            same = " ".join(text.casefold().replace("ё", "е").split())
            if same in seen:
                raise SyntheticError(f"{path}: {group}: this theme stands there twice: {text!r}")
            seen.add(same)
            themes.append(Theme(group, text.strip()))
    if not themes:
        raise SyntheticError(f"{path}: no themes")
    return themes


def load_price(path: Path, model: str) -> Price:
    """Read one model's price. Raises SyntheticError: without a price there is no budget."""
    models = _load_object(path).get("models")
    if not isinstance(models, dict) or model not in models:
        raise SyntheticError(f"{path}: no price for {model}; add what your provider asks for it")
    try:
        price = Price(float(models[model]["input"]), float(models[model]["output"]))
    except (KeyError, TypeError, ValueError):
        raise SyntheticError(f"{path}: {model} needs two numbers, input and output") from None
    if not (0 <= price.input < float("inf") and 0 <= price.output < float("inf")):
        raise SyntheticError(f"{path}: {model}: a price below nothing")
    return price


def _load_object(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SyntheticError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SyntheticError(f"{path}: not UTF-8") from None
    except json.JSONDecodeError as error:
        why = "empty" if not error.doc.strip() else f"not JSON: {error}"
        raise SyntheticError(f"{path}: {why}") from None
    if not isinstance(loaded, dict):
        raise SyntheticError(f"{path}: should be a JSON object, {{…}}")
    return loaded


def plan(themes: Sequence[Theme], per_theme: int, limit: int | None = None) -> list[Order]:
    """Return the stories to have, the first of every theme before the second of any.

    Within a round the order is the ids', which mixes the groups: any beginning is a fair sample.
    """
    orders = [Order(theme, number) for theme in themes for number in range(1, per_theme + 1)]
    return sorted(orders, key=lambda order: (order.number, order.id))[:limit]


def body(order: Order, request: Request) -> dict[str, Any]:
    """Return what is sent to ``/v1/chat/completions``, alone or in a batch."""
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": PROMPT.format(theme=order.theme.text)},
    ]
    sent: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "max_completion_tokens": request.max_tokens,
    }
    return sent if request.temperature is None else {**sent, "temperature": request.temperature}


def worst_tokens(order: Order, request: Request) -> tuple[int, int]:
    """Return the most tokens one request can be charged for: the prompt's and the answer's.

    No byte-level tokenizer makes more tokens of a text than it has bytes.
    """
    contents = [message["content"] for message in body(order, request)["messages"]]
    return sum(len(text.encode()) + MESSAGE_TOKENS for text in contents), request.max_tokens


def worst_cost(order: Order, request: Request) -> float:
    """Return the most US dollars one request can cost."""
    return request.price.of(*worst_tokens(order, request))


def estimate(orders: Sequence[Order], request: Request, concurrency: int) -> Estimate:
    """Foretell a run from the first project's figures: tokens and seconds a story."""
    characters = sum(len(SYSTEM) + len(PROMPT.format(theme=order.theme.text)) for order in orders)
    prompt = round(characters / CHARACTERS_PER_TOKEN)
    answers = min(STORY_TOKENS, request.max_tokens) * len(orders)
    return Estimate(
        stories=len(orders),
        prompt_tokens=prompt,
        completion_tokens=answers,
        cost=request.price.of(prompt, answers),
        worst=sum(worst_cost(order, request) for order in orders),
        seconds=STORY_SECONDS * -(-len(orders) // concurrency),
    )
