"""The torch engine: transformers' continuous batching, on CUDA in bf16 or on the CPU in fp32.

A thread of the library steps the whole batch; a new request joins at the next step, a finished
or cancelled one leaves. Each request's draws depend on its own seed, not on its neighbours.
"""

import asyncio
import itertools
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus
from transformers.utils import logging

from ml import card, processors, registry
from ml.detokenizer import Detokenizer
from ml.engine import (
    EngineError,
    GenerationError,
    ModelCard,
    Request,
    Stream,
)

# What the libraries and the registry raise for files that are missing, cut off or no model's.
_BROKEN = (
    AttributeError,
    OSError,
    RuntimeError,
    ValueError,
    SafetensorError,
    registry.RegistryError,
)
_LATE_RESULTS = 5.0  # seconds in which a cancelled request's last step may still report
# Of the free memory on CUDA, for the key-value cache: the library would take 0.8 and leave no room
# for the versions that ``ml.serving`` loads beside this one.
_CACHE_SHARE = 0.3
_LOOK = 0.01  # seconds
_PAGE = 64  # tokens in a page of the key-value cache


class TorchEngine:
    """Any causal language model of transformers, from a folder or the hub."""

    def __init__(self, model: str, *, device: str = "auto", slots: int = 8) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._source, self._device, self._slots = model, device, slots
        self._card: ModelCard | None = None
        self._manager: ContinuousBatchingManager
        self._tokenizer: PreTrainedTokenizerBase
        self._context = self._vocabulary = 0
        self._names = itertools.count()
        self._streams: dict[str, Stream] = {}

    @property
    def card(self) -> ModelCard:
        assert self._card is not None, "the engine has not been started"
        return self._card

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        self._manager.start()
        while self._manager.is_running() and self._manager.batch_processor is None:
            await asyncio.sleep(_LOOK)  # its thread reserves the key-value cache
        if not self._manager.is_running():
            raise EngineError(f"{self._source!r}: no room for its key-value cache? see the log")

    def _load(self) -> None:
        logging.disable_progress_bar()
        getLogger("ContinuousBatchingLogger").setLevel(WARNING)
        if self._device == "cuda" and not torch.cuda.is_available():
            raise EngineError("DEVICE is cuda, but torch sees no CUDA device here")
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._source)
            model: Any = AutoModelForCausalLM.from_pretrained(
                self._source, dtype=dtype, attn_implementation="sdpa"
            )
            model.to(self._device)
            if self._device == "cpu" and model.num_parameters() < card.SMALL:
                torch.set_num_threads(1)
            self._context = model.config.max_position_embeddings
            if not self._encode(card.SAMPLE) or self._tokenizer.eos_token_id is None:
                raise ValueError("its tokenizer knows no words or no end of a text")
            version = self._version(model)
            self._card = card.describe(
                self._source, version, context=self._context, encode=self._encode
            )
        except _BROKEN as error:
            raise EngineError(f"cannot load the model {self._source!r}: {error}") from error
        self._manager = model.init_continuous_batching(
            generation_config=self._defaults(), continuous_batching_config=self._batching()
        )
        self._vocabulary = model.config.get_text_config().vocab_size
        processors.install(
            self._manager.logit_processor,
            slots=self._slots,
            vocabulary=self._vocabulary,
            device=model.device,
        )

    def _defaults(self) -> GenerationConfig:
        """Name the library's filters: it makes none of those that are unset or off."""
        end = self._tokenizer.eos_token_id
        return GenerationConfig(
            do_sample=True,
            temperature=0.5,  # these three any that are on: every request brings its own
            top_p=0.5,
            top_k=1,
            eos_token_id=end,
            pad_token_id=end,
        )

    def _batching(self) -> ContinuousBatchingConfig:
        config = ContinuousBatchingConfig(
            page_size=_PAGE,
            max_requests_per_batch=self._slots,
            per_request_processors=True,
            # A draw is keyed by the tokens so far, which double buffering knows a step too late.
            use_async_batching=False,
        )
        if self._device == "cpu":
            pages = -(-self._context // _PAGE)
            config.num_blocks = (self._slots + 2) * pages
            config.max_batch_tokens = self._context
        else:
            config.max_memory_percent = _CACHE_SHARE
        return config

    def _version(self, model: Any) -> str:
        if Path(self._source).is_dir():
            return registry.weights_sha256(Path(self._source))[: registry.DIGITS]
        return getattr(model.config, "_commit_hash", None) or "unknown"

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def submit(self, request: Request) -> Stream:
        if not self._manager.is_running():
            raise EngineError("the engine has ended")
        ids = card.prompt_ids(request, self.card, self._encode, self._tokenizer.eos_token_id)
        name = str(next(self._names))
        stream = Stream(on_cancel=lambda: self._drop(name))
        self._streams[name] = stream
        self._manager.register_result_handler(name, self._reader(stream, name))
        sampling = request.sampling
        self._manager.add_request(
            ids,
            request_id=name,
            max_new_tokens=min(sampling.max_tokens, self._context - len(ids)),
            streaming=True,
            seed=request.seed,
            **processors.arguments(sampling, self._vocabulary),
        )
        return stream

    def _reader(self, stream: Stream, name: str) -> Any:
        """Return the callback that turns the library's token lists into pieces of text."""
        detokenizer = Detokenizer(self._tokenizer.backend_tokenizer)

        def read(output: GenerationOutput) -> None:
            for token in output.generated_tokens[stream.tokens :]:
                stream.tokens += 1
                if piece := detokenizer.step(token):
                    stream.push(piece)
            if output.status == RequestStatus.FAILED:
                stream.end("error", GenerationError(output.error or "unknown"))
            elif output.is_finished():
                ended = output.generated_tokens[-1:] == [self._tokenizer.eos_token_id]
                stream.end("stop" if ended else "length")
            if output.is_finished():
                self._streams.pop(name, None)

        return read

    def _drop(self, name: str) -> None:
        """Take a cancelled request out of the batch; no result of it is read any more."""
        self._manager.cancel_request(name)
        self._streams.pop(name, None)
        # The library forgets a handler when its request finishes; a cancelled one never does.
        handlers = self._manager.output_router.result_handlers
        asyncio.get_running_loop().call_later(_LATE_RESULTS, handlers.pop, name, None)

    async def close(self) -> None:
        for stream in list(self._streams.values()):
            stream.cancel()
        if self._manager.is_running():
            await asyncio.to_thread(self._manager.stop, hard_stop=True)


def sees_cuda() -> bool:
    """Tell whether torch can compute on a CUDA device here."""
    return torch.cuda.is_available()
