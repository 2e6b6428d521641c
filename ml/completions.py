"""One server with OpenAI's completions API: what it holds, and an answer as it writes it.

    server = Completions("http://10.0.0.1:8000/v1", "pushkin-mini", key="", silence=60.0)
    held = await server.held()
    prompt_tokens = await server.write(stream, "Вечер", Sampling(), seed=1)

OpenAI's API knows no top_k, min_p and repetition_penalty. vLLM and most others take them beside
its own fields; to a server that refuses one by name it is sent no more, and the log says so.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import openai
from openai import AsyncStream
from openai.types import Completion

from ml.decoding import Sampling
from ml.engine import Stream
from ml.synthetic import retry_after

CONNECTING = 5.0  # seconds
# How vLLM, OpenAI, llama.cpp and TGI say that a text does not fit.
_TOO_LONG = re.compile(
    r"context.length|context size|context window|too long|max_model_len|max_new_tokens. must be",
    re.IGNORECASE,
)
_SERVERS_FAULT = {401, 403, 404, 408, 409, 429}  # and 500 on: another may well answer

log = logging.getLogger("worker")


class CompletionError(Exception):
    """Why no answer came, in one line."""


class ServerError(CompletionError):
    """The server's fault: another, or the same one later, may answer.

    ``asked`` is how many seconds it wants to be left alone, if it said so.
    """

    def __init__(self, why: str, asked: float | None = None) -> None:
        super().__init__(why)
        self.asked = asked


class TooLongError(CompletionError):
    """The text does not fit into the model's context."""


class RefusedError(CompletionError):
    """Any server would refuse this request."""


@dataclass(frozen=True)
class Held:
    """What a server says of its model; others than vLLM say little."""

    root: str  # the folder or name that it was started with
    context: int | None

    @property
    def version(self) -> str:
        """The root's last part: of a folder of the registry, the version's name."""
        return PurePosixPath(self.root).name[:64] or "unknown"


class Completions:
    """A client of one server. ``silence`` is how many seconds it may say nothing."""

    def __init__(self, url: str, model: str, *, key: str, silence: float) -> None:
        self._url, self._model = url, model
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=url,
            timeout=openai.Timeout(silence, connect=CONNECTING),
            max_retries=0,  # its own tries would all go to this server
        )
        self._unknown: set[str] = set()  # fields that it refuses

    async def held(self) -> Held:
        """Ask what it holds. Raises CompletionError."""
        with _in_our_words():
            models = [model async for model in self._client.models.list()]
            ours = [model for model in models if model.id == self._model]
            # ``created`` is no version: vLLM gives the time of the question. A server may also
            # not list what it holds, as ``transformers serve``; an adapter's context is told
            # with its base model.
            lengths = [getattr(model, "max_model_len", None) for model in ours and ours + models]
            root = getattr(ours[0], "root", None) if ours else None
            return Held(str(root or ""), next(filter(None, lengths), None))

    async def write(self, stream: Stream, text: str, sampling: Sampling, seed: int) -> int:
        """Stream what continues ``text`` to its end; return the tokens of ``text``, if told.

        Raises CompletionError. Cancelled, it closes the connection, and the server stops.
        """
        reason, usage = None, None
        with _in_our_words():
            async with await self._open(text, sampling, seed) as chunks:
                try:
                    async for chunk in chunks:
                        usage = chunk.usage or usage
                        for choice in chunk.choices:
                            reason = choice.finish_reason or reason
                            # Without what stands for bytes that are no letter.
                            if piece := (choice.text or "").replace("\ufffd", ""):
                                stream.tokens += 1
                                stream.push(piece)
                except openai.APIConnectionError:
                    if reason is None:  # else the text was whole
                        raise
        if reason is None:
            raise ServerError("it broke the answer off")
        if reason not in ("stop", "length"):
            raise RefusedError(f"it ended the answer with {reason}")
        if usage:  # without it there are as many tokens as there were pieces
            stream.tokens = usage.completion_tokens
        stream.end(reason)
        return usage.prompt_tokens if usage else 0

    async def _open(self, text: str, sampling: Sampling, seed: int) -> AsyncStream[Completion]:
        """Begin an answer, without the fields that this server turns out not to know."""
        more = {
            # All of them, even those that are off: a server has defaults of its own.
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "add_special_tokens": False,
            "stream_options": {"include_usage": True},
        }
        while True:
            try:
                return await self._client.completions.create(
                    model=self._model,
                    prompt=text,
                    stream=True,
                    max_tokens=sampling.max_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=seed,
                    extra_body={name: more[name] for name in more.keys() - self._unknown},
                )
            except openai.APIStatusError as error:
                named = {name for name in more if name in _said(error)} - self._unknown
                if error.status_code not in (400, 422) or not named:
                    raise
                self._unknown |= named
                names = ", ".join(sorted(named))
                log.warning("%s does not know %s: they are sent no more", self._url, names)

    async def close(self) -> None:
        await self._client.close()


def _said(error: openai.APIError) -> str:
    """Return all that is known of an error, in one line of bearable length."""
    said = str(error)
    for more in (error.body, error.__cause__):
        if more and str(more) not in said:
            said += f": {more}"
    return " ".join(said.split())[:300]


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Raise CompletionError for openai's errors, and for what it hands on unchecked."""
    try:
        yield
    except openai.APIError as error:
        why = _said(error)
        status = error.status_code if isinstance(error, openai.APIStatusError) else 500
        if _TOO_LONG.search(f"{why} {error.code}"):
            raise TooLongError(why) from error
        if status >= 500 or status in _SERVERS_FAULT:
            raise ServerError(why, retry_after(error)) from error
        raise RefusedError(why) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ServerError("it answers, but not as OpenAI's API does") from error
