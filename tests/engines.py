"""What the tests of the local engines share: a model that knows a sentence by heart, a reader."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml.checkpoint import export
from ml.engine import Engine, Request
from ml.gpt import ARCHITECTURES, new_gpt
from ml.tokenizer import train

CONTEXT = 96


def trained(folder: Path, steps: int, architecture: str = "gpt2") -> Path:
    """Write a tiny model that learns one sentence by heart, as the worker would find it."""
    text = "Вечер был тихий; дорога шла полем. — Что же, — спросил офицер, — нашли их?\n"
    tokenizer = train([text * 20], vocabulary=420)
    shape = {"vocabulary": len(tokenizer), "context": CONTEXT, "width": 32, "layers": 2, "heads": 2}
    model = new_gpt(ARCHITECTURES[architecture](**shape), seed=1)
    ids = torch.tensor([tokenizer.encode(text * 3)[: CONTEXT + 1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = model(ids[:, :-1], ids[:, 1:])[1]
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    export(model, tokenizer, {"name": "toy", "parameters": 1}, folder)
    return folder


async def write(engine: Engine, request: Request) -> tuple[str, int, str | None]:
    """Return a story, its tokens and why it ended."""
    stream = await engine.submit(request)
    text = "".join([piece async for piece in stream])
    return text, stream.tokens, stream.finish_reason


class Plain:
    """transformers' own ``generate``, greedy, in fp32: what every engine is compared with."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def write(self, prompt: str, tokens: int, **settings: Any) -> str:
        new = self.tokens(
            self.tokenizer.encode(prompt, add_special_tokens=False), tokens, **settings
        )
        return str(self.tokenizer.decode(new, skip_special_tokens=True)).rstrip("\ufffd")

    def tokens(self, prompt: list[int], tokens: int, **settings: Any) -> list[int]:
        ids = torch.tensor([prompt])
        text = self.model.generate(
            ids, do_sample=False, max_new_tokens=tokens, pad_token_id=0, **settings
        )
        new: list[int] = text[0, len(prompt) :].tolist()
        return new
