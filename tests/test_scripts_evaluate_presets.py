"""The evaluation's presets: the named settings, and the seed's by transformers' plain generate."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from ml.decoding import SEED
from scripts import evaluate
from tests.test_scripts_evaluate import OPENINGS, Place


class Presets(Place):
    def write(self, model: Path, out: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
        paths = {name: getattr(self, name) for name in ("corpus", "split", "authors", "prompts")}
        words = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
        evaluate.main([str(model), *words, "--out", str(out), "--openings", "2", *options])
        lines = out.with_suffix(".jsonl").read_text("utf-8").splitlines()
        return json.loads(out.read_text("utf-8")), [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Presets]:
    threads = torch.get_num_threads()
    yield Presets(tmp_path_factory.mktemp("place"))
    torch.set_num_threads(threads)  # the engine's start sets it


def test_seed_writes_as_plain_generate_writes(place: Presets, tmp_path: Path) -> None:
    result, texts = place.write(place.gpt, tmp_path / "seed.json", "--preset", "seed")
    model: Any = AutoModelForCausalLM.from_pretrained(place.gpt, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place.gpt)
    for number, (opening, text) in enumerate(zip(OPENINGS[:2], texts, strict=True)):
        ids = tokenizer(opening, return_tensors="pt", add_special_tokens=False)
        set_seed(1799 + number)
        whole = model.generate(
            **ids,
            max_length=192,  # it would be 256, but there is no more room in this model
            do_sample=True,
            num_beams=2,
            no_repeat_ngram_size=2,
            top_k=20,
            top_p=0.5,
            temperature=0.7,
            pad_token_id=0,
        )[0]
        assert len(whole) <= 192
        assert text == tokenizer.decode(whole[ids.input_ids.shape[1] :], skip_special_tokens=True)
    assert result["config"]["sampling"] == dict(SEED)
    assert result["command"].endswith(" --corpus CORPUS --preset seed")


def test_preset_and_single_settings_are_named_in_the_result(place: Presets, tmp_path: Path) -> None:
    result, bold = place.write(
        place.gpt, tmp_path / "bold.json", "--preset", "bold", "--top-k", "0"
    )
    sampling = result["config"]["sampling"]
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (0.9, 0.92, 0)
    assert result["command"].endswith(" --corpus CORPUS --preset bold --top-k 0")
    assert all(bold)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--top-p", "2"), "top_p must be a number from 0.01 to 1: 2.0"),
        (("--temperature", "0"), "temperature must be"),
        (("--preset", "seed", "--top-k", "5"), "seed is taken as it was"),
        (("--preset", "loud"), "invalid choice: 'loud'"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        evaluate.main([nowhere, "--corpus", nowhere, *options])
    assert said in capsys.readouterr().err


def test_seed_takes_models_of_transformers_only(place: Presets, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--preset seed is for models of transformers"):
        place.write(place.network, tmp_path / "out.json", "--preset", "seed")
