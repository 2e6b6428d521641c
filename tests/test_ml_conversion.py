"""Where a conversion lies, whose it is, and when int8 may serve."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from ml import card, conversion, openvino_model, registry
from ml.checkpoint import export
from ml.conversion import ConversionError
from ml.evaluate import bits_per_character
from ml.gpt import CausalLM, gpt_config, llama_config, load_gpt, new_gpt
from ml.openvino_batch import MODEL
from ml.openvino_model import INT4, LOSS, Converted, convert
from ml.openvino_weights import fitting, stories
from ml.tokenizer import load
from scripts import convert_model
from tests.engines import CONTEXT, trained
from tests.toy import EVENING, LETTER


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"), steps=5)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "models" / "toy" / "1"))


def never(*_: object) -> conversion.Conversion:
    raise AssertionError("converted again")


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return our own messages: transformers warns of something, once in a process."""
    return [record.getMessage() for record in caplog.records if record.name == "openvino"]


def test_the_conversion_that_ships_is_of_the_weights_that_ship() -> None:
    found = conversion.find(registry.BUNDLED)
    assert found is not None
    assert found.folder == registry.BUNDLED / conversion.BUNDLED
    assert found.meta["format"] == "int8"
    assert (found.folder / MODEL).with_suffix(".bin").stat().st_size < 11_000_000
    bits = found.meta["bits_per_character"]
    assert bits["int8"] <= bits["original"] * (1 + LOSS)


def test_the_conversion_that_ships_predicts_as_well_as_the_original() -> None:
    tokenizer = load(registry.BUNDLED)
    converted = Converted(registry.BUNDLED / conversion.BUNDLED / MODEL)
    original, int8 = (
        bits_per_character(one, tokenizer, [EVENING, LETTER], context=512)
        for one in (load_gpt(registry.BUNDLED), converted)
    )
    assert original != int8
    assert abs(int8 / original - 1) < LOSS


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_converted_logits_equal_the_originals(architecture: str, tmp_path: Path) -> None:
    folder = trained(tmp_path / "model", 5, architecture)
    made = convert(folder, tmp_path / "converted", formats=["fp32"])
    ids = torch.randint(0, 300, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, _ = load_gpt(folder)(ids)
    logits, _ = Converted(made.folder / MODEL)(ids)
    # The cache is in int8: so far from the original, not further.
    torch.testing.assert_close(logits, expected, atol=0.02, rtol=0)


def test_a_model_is_converted_once_in_a_process_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(folder, "toy", {}, folder.parents[2] / "published")
    folder, root = version.folder, version.folder.parents[1]
    made = conversion.open_conversion(folder)
    digest = registry.weights_sha256(folder)
    assert made.folder == folder.parent / f".openvino-{digest[:12]}-1"
    assert registry.list_versions(root) == [version]  # a conversion is none
    assert registry.clean(root) == []
    assert made.meta["weights_sha256"] == digest
    assert made.context == CONTEXT
    monkeypatch.setattr(conversion, "_convert_apart", never)
    assert conversion.open_conversion(folder).meta == made.meta


def test_other_weights_and_another_recipe_are_converted_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(folder, folder / conversion.BUNDLED, formats=["fp32"])
    assert conversion.find(folder)
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "RECIPE", 2)
        assert conversion.find(folder) is None
    other = trained(tmp_path / "other", steps=2)
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
    assert conversion.find(folder) is None


def test_a_model_in_a_folder_of_somebody_else_is_converted_into_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conversion, "_writable", lambda _: False)
    monkeypatch.setattr(
        conversion, "_convert_apart", lambda *paths: convert(*paths, formats=["fp32"])
    )
    made = conversion.open_conversion(folder)
    assert made.folder.parent == conversion.CACHE
    monkeypatch.setattr(conversion, "_convert_apart", never)
    assert conversion.open_conversion(folder).folder == made.folder


def test_large_models_activations_share_scales_in_groups_that_divide_every_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def groups(width: int) -> list[list[int]]:
        shape = {"vocabulary": 300, "context": 16, "width": width, "layers": 1, "heads": 2}
        configs = gpt_config(**shape), llama_config(**shape)
        models = [new_gpt(config, seed=0).model for config in configs]
        return [openvino_model._groups(model, "int8") for model in models]

    assert groups(192) == [[32], [32]]
    monkeypatch.setattr(card, "SMALL", 0)
    assert groups(192) == [[192, 32], [64, 32]]  # Llama's inner width is 512
    assert groups(16) == [[32], [32]]
    small = new_gpt(gpt_config(vocabulary=300, context=16, width=64, layers=1, heads=2), seed=0)
    assert openvino_model._groups(small.model, "int4") == [64]


def test_groups_that_are_too_wide_give_way_to_the_librarys(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured = iter([2.0, 2.03, 2.01])
    monkeypatch.setattr(openvino_model, "bits_per_character", lambda *_, **__: next(measured))
    monkeypatch.setattr(openvino_model, "_groups", lambda *_: [1024, 32])
    with caplog.at_level(logging.WARNING, "openvino"):
        made = convert(folder, tmp_path / "converted")
    assert ours(caplog) == ["int8 in groups of 1024 may not serve: more than 1 % worse"]
    assert (made.meta["format"], made.group) == ("int8", 32)


def test_int4_is_fitted_to_other_stories_than_it_is_measured_on() -> None:
    tokenizer = load(registry.BUNDLED)
    measured = stories()
    texts = [str(tokenizer.decode(tokens)) for tokens in fitting(tokenizer, 40)]
    assert len(measured) == 8
    assert len(texts) == 32
    assert not [one for one in texts if any(story.startswith(one[:20]) for story in measured)]
    assert max(len(tokens) for tokens in fitting(tokenizer, 40)) == 40


@pytest.mark.timeout(300)  # it is fitted once, and once rounded
def test_int4_that_is_fitted_may_serve_where_a_rounded_one_may_not(tmp_path: Path) -> None:
    fitted, rounded = (
        convert(registry.BUNDLED, tmp_path / name, formats=["int4"], loss=1, fit=fit)
        for name, fit in (("fitted", True), ("rounded", False))
    )
    assert fitted.group == 64  # what 128 and 320 have in common
    assert (fitted.meta["fitted"], rounded.meta["fitted"]) == (True, False)
    worse, worst = (
        made.meta["bits_per_character"]["int4 in groups of 64"]
        / made.meta["bits_per_character"]["original"]
        - 1
        for made in (fitted, rounded)
    )
    assert 0 < worse < LOSS < worst
    folder = tmp_path / "model"
    shutil.copytree(registry.BUNDLED, folder, ignore=shutil.ignore_patterns(conversion.BUNDLED))
    shutil.copytree(fitted.folder, folder / conversion.BUNDLED)
    served = conversion.find(folder)
    assert served is not None
    assert served.meta["format"] == "int4"


def test_int4_that_is_too_bad_gives_way_to_int8(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured = iter([2.0, 2.03, 2.01])
    monkeypatch.setattr(openvino_model, "bits_per_character", lambda *_, **__: next(measured))
    with caplog.at_level(logging.WARNING, "openvino"):
        made = convert(folder, tmp_path / "converted", formats=INT4, fit=False)
    assert ours(caplog) == ["int4 may not serve: more than 1 % worse"]
    assert (made.meta["format"], made.group) == ("int8", 32)


@pytest.mark.parametrize(("width", "shared"), [(192, 64), (48, 16), (256, 128)])
def test_int4_wants_groups_of_32_weights_at_least(
    width: int, shared: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = {"vocabulary": 9000, "context": 16, "width": width, "layers": 1, "heads": 2}
    model = new_gpt(gpt_config(**shape), seed=0).model
    assert openvino_model.int4_group(model) == shared
    if shared < 32:
        export(CausalLM(model), load(registry.BUNDLED), {}, tmp_path / "model")
        with caplog.at_level(logging.WARNING, "openvino"), pytest.raises(ConversionError):
            convert(tmp_path / "model", tmp_path / "converted", formats=["int4"])
        assert ours(caplog) == [f"no int4: only {shared} weights could share a scale"]


def test_int8_that_is_too_bad_gives_way_to_fp16(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured = iter([2.0, 2.03, 2.01])
    monkeypatch.setattr(openvino_model, "bits_per_character", lambda *_, **__: next(measured))
    with caplog.at_level(logging.WARNING, "openvino"):
        made = convert(folder, tmp_path / "converted")
    assert ours(caplog) == ["int8 may not serve: more than 1 % worse"]
    assert made.meta["format"] == "fp16"
    assert made.meta["bits_per_character"] == {"original": 2.0, "int8": 2.03, "fp16": 2.01}
    assert 'element_type="f16"' in (made.folder / MODEL).read_text("utf-8")


def test_a_failed_conversion_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "none"
    with pytest.raises(ConversionError, match=r"all more than -100% worse$"):
        convert(folder, target, formats=["fp16"], loss=-1)
    (folder / "config.json").write_text("{}", "utf-8")
    with pytest.raises(ConversionError, match=r"1: cannot be converted for OpenVINO: [^\n]+$"):
        convert(folder, target)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_an_unknown_architecture_and_missing_libraries_are_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_LIBRARIES", ("no_such_library",))
    with pytest.raises(ConversionError, match=r"needs no_such_library; install with: pip [^\n]+$"):
        conversion.open_conversion(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}), "utf-8")
    with pytest.raises(ConversionError, match=r"no model that can be converted .*gpt2, llama"):
        conversion.open_conversion(folder)


@pytest.mark.parametrize("flags", [[], ["--int4"]])
def test_the_script_converts_into_the_model_s_own_folder(
    flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_model.main([str(folder), *flags])
    assert f"{folder / 'openvino'}: " in capsys.readouterr().out
    found = conversion.find(folder)
    assert found is not None
    assert found.folder == folder / "openvino"
    assert ("int4" in found.meta["bits_per_character"]) is bool(flags)
    with pytest.raises(SystemExit, match="no weights here"):
        convert_model.main([str(folder / "openvino")])
