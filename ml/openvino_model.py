"""Converts a causal language model for OpenVINO, with weights in int8 as long as that costs little.

    convert(Path("ml/pretrained/pushkin-mini"), Path("out/openvino"))

The model is traced with its key-value cache as inputs and outputs, which then become the state
that OpenVINO's paged attention replaces (its pass SDPAToPagedAttention). int8 may serve if it
predicts our sample stories at most 1 % worse than the original does; if not, fp16, then fp32. int4
is tried before them where somebody asks for it.

Shapes: B sequences, T new tokens, P tokens in the cache, H heads of width D, V vocabulary.
"""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ml import card, registry
from ml.conversion import GROUP, RECIPE, Conversion, ConversionError, log, whole
from ml.evaluate import bits_per_character
from ml.gpt import CausalLM
from ml.openvino_batch import MODEL, properties
from ml.openvino_quiet import openvino
from ml.openvino_weights import INT4_GROUP, fitting, save, stories

FORMATS = ("int8", "fp16", "fp32")  # of the weights, the smallest first; the last loses nothing
INT4 = ("int4", *FORMATS)  # not unasked: fitting ruGPT-3 medium takes some ten minutes
LOSS = 0.01  # by how much more bits per character a smaller format may serve
_STRIDE = 64  # tokens at a time, so that most are predicted out of the cache, as in serving
# What the libraries raise for a model they cannot read or convert.
_BROKEN = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError),
    SafetensorError,
)


def convert(
    model: Path,
    target: Path,
    *,
    formats: Sequence[str] = FORMATS,
    loss: float = LOSS,
    fit: bool = True,
) -> Conversion:
    """Write the first of ``formats`` that is good enough to ``target`` and return it.

    Raises ConversionError if none is, or for a folder that cannot be read or written. int4 is
    fitted to our sample stories unless ``fit`` is false: random weights have nothing to fit.
    """
    started = time.monotonic()
    log.info("converting %s for OpenVINO, once", model)
    with warnings.catch_warnings(), whole(target) as part:
        warnings.simplefilter("ignore")  # of tracing, which torch deprecates
        try:
            meta = _write(model, part, formats, loss, fit)
        except _BROKEN as error:
            line = " ".join(str(error).split())[:200]
            raise ConversionError(f"{model}: cannot be converted for OpenVINO: {line}") from error
        (part / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
    log.info("%s written in %.0f s: %s", meta["format"], time.monotonic() - started, target)
    return Conversion(target, meta)


def _write(
    model: Path, part: Path, formats: Sequence[str], loss: float, fit: bool
) -> dict[str, Any]:
    digest = registry.weights_sha256(model)
    original: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="sdpa"
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    context = int(original.config.max_position_embeddings)

    def measure(language_model: nn.Module) -> float:
        bits = bits_per_character(language_model, tokenizer, stories(), context=context)
        return round(bits, 5)

    bits = {"original": measure(CausalLM(original))}
    log.info("the original: %.4f bits per character", bits["original"])
    exported = export(original)
    shared = int4_group(original)
    for form in formats:
        if form == "int4" and shared < GROUP:
            log.warning("no int4: only %d weights could share a scale", shared)
            continue
        texts = fitting(tokenizer, context) if form == "int4" and fit else []
        save(exported, part / MODEL, form, group=shared, texts=texts)
        for group in _groups(original, form):
            name = form if group == GROUP else f"{form} in groups of {group}"
            bits[name] = measure(Converted(part / MODEL, group))
            worse = bits[name] / bits["original"] - 1
            log.info("%s: %.4f bits per character (%+.2f %%)", name, bits[name], 100 * worse)
            if worse <= loss:
                return {
                    "weights_sha256": digest,
                    "recipe": RECIPE,
                    "openvino": openvino.get_version(),
                    "format": form,
                    "group": group,
                    "fitted": bool(texts),
                    "bits_per_character": bits,
                    "context": context,
                    "parameters": original.num_parameters(),
                }
            log.warning("%s may not serve: more than %.0f %% worse", name, 100 * loss)
    raise ValueError(f"{', '.join(formats)}: all more than {loss:.0%} worse")


def _groups(model: PreTrainedModel, form: str) -> list[int]:
    """Return how many activations may share a scale, the most first: fewer scales are faster.

    On 350 million parameters 1.2 to 1.4 times (docs/performance.md), on small models nothing.
    The number must divide the inputs of every matrix, and in int4 the weights that share one, else
    the library multiplies in fp32.
    """
    if form == "int4":
        return [int4_group(model)]
    width = _width(model)
    large = form == "int8" and width > GROUP and model.num_parameters() >= card.SMALL
    return [width, GROUP] if large else [GROUP]


def int4_group(model: PreTrainedModel) -> int:
    """Return how many of a model's weights share a scale in int4."""
    return math.gcd(INT4_GROUP, _width(model))


def _width(model: PreTrainedModel) -> int:
    """Return the largest number that divides the inputs of every matrix."""
    config = model.config
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_attention_heads * head
    return math.gcd(config.hidden_size, inner or 4 * config.hidden_size, attention)


def export(model: PreTrainedModel) -> openvino.Model:
    """Trace a model into one whose cache is its state.

    Inputs: input_ids and position_ids (B, T), attention_mask (B, P + T), beam_idx (B,), which
    says whose cache a sequence goes on with. Output: logits (B, T, V).
    """
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = [f"past.{i}" for i in range(2 * config.num_hidden_layers)]
    example = (
        torch.zeros(2, 4, dtype=torch.int64),
        torch.ones(2, 7, dtype=torch.int64),
        torch.arange(3, 7).repeat(2, 1),
        *(torch.zeros(2, heads, 3, width) for _ in names),
    )
    with torch.no_grad():
        traced = openvino.convert_model(_Cached(model.eval()), example_input=example)
    inputs = ["input_ids", "attention_mask", "position_ids", *names]
    for name, port in zip(inputs, traced.inputs, strict=True):
        port.get_tensor().set_names({name})
        shape = [-1, heads, -1, width] if name in names else [-1, -1]
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    presents = [f"present.{i}" for i in range(len(names))]
    for name, port in zip(["logits", *presents], traced.outputs, strict=True):
        port.get_tensor().set_names({name})
    traced.validate_nodes_and_infer_types()
    _keep_cache(traced, dict(zip(names, presents, strict=True)), [heads, 0, width])
    return traced


def _keep_cache(model: openvino.Model, pairs: Mapping[str, str], empty: list[int]) -> None:
    """Make a state of each pair of cache input and output; it begins with no token."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    ops = openvino.opset13
    beams = ops.parameter([-1], dtype=np.int32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beams])
    for name in pairs:
        port = model.input(name)
        readers = port.get_target_inputs()
        own = ops.gather(port, beams, ops.constant(0, dtype=np.int32))
        for reader in readers:
            reader.replace_source_output(own.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, dict(pairs))
    sequences = ops.gather(
        ops.shape_of(model.input("input_ids")), ops.constant([0]), ops.constant(0)
    )
    shape = ops.concat([sequences, ops.constant(np.array(empty))], 0)
    nothing = ops.broadcast(ops.constant(0.0, dtype=np.float32), shape)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([nothing])
    model.validate_nodes_and_infer_types()


class _Past:
    """What transformers asks of a cache, over the tensors that are traced."""

    is_compileable = False

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.layers = list(zip(tensors[::2], tensors[1::2], strict=True))

    def get_seq_length(self, layer: int = 0) -> int:
        return self.layers[layer][0].shape[-2]

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D) and return all (B, H, P + T, D)."""
        old_keys, old_values = self.layers[layer]
        grown = torch.cat([old_keys, keys], dim=-2), torch.cat([old_values, values], dim=-2)
        self.layers[layer] = grown
        return grown


class _Cached(nn.Module):
    """A model of transformers with its cache in sight."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *cache: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits (B, T, V), then each layer's keys and values (B, H, P + T, D)."""
        past = _Past(cache)
        places = torch.arange(attention_mask.shape[1])
        own = places[attention_mask.shape[1] - input_ids.shape[1] :]
        seen = (places[None] <= own[:, None]) & attention_mask.bool()[:, None, None]
        logits = self.model(
            input_ids=input_ids,
            attention_mask=seen,  # (B, 1, T, P + T)
            position_ids=position_ids,
            past_key_values=past,
            use_cache=True,
        ).logits
        return logits, *(tensor for layer in past.layers for tensor in layer)


class Converted(nn.Module):
    """A conversion behind our models' one signature, to be measured as it serves."""

    def __init__(self, file: Path, group: int = GROUP) -> None:
        super().__init__()
        compiled = openvino.Core().compile_model(file, "CPU", properties(group))
        self._request = compiled.create_infer_request()

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        """Map ids (B, T) to logits (B, T, V)."""
        self._request.reset_state()
        sequences, length = ids.shape
        logits = []
        for begin in range(0, length, _STRIDE):
            end = min(begin + _STRIDE, length)
            results = self._request.infer(
                {
                    "input_ids": ids[:, begin:end].numpy(),
                    "attention_mask": np.ones((sequences, end), dtype=np.int64),
                    "position_ids": np.tile(np.arange(begin, end), (sequences, 1)),
                    "beam_idx": np.arange(sequences, dtype=np.int32),
                }
            )
            logits.append(torch.from_numpy(results["logits"].copy()))
        return torch.cat(logits, dim=1), None
