"""`transom convert`: the file it writes is the same model; what goes wrong is one line and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.test_app import one_line
from tests.command_line import run
from tests.fakes import write_tiny_llama
from tests.gguf_families import CONVERTIBLE, GgufCase, write_directory
from tests.harness import Harness
from tests.test_promise_three import random_tokens, same_bits
from tests.tokenizer_files import byte_level, write_tokenizer
from transom import kernels
from transom.cli.convert import convert
from transom.cli.gguf_plan import plan_from_directory, plan_from_gguf
from transom.config.model_config import ModelConfig
from transom.errors import ConfigError, TransomError, WeightsError
from transom.registry.model_files import read_model_config
from transom.tokenizer import Tokenizer
from transom.weights.gguf import open_gguf
from transom.weights.gguf_writer import write_gguf
from transom.weights.quantization import RECIPES
from transom.weights.sources import open_weights

ROOT = Path(__file__).parents[2]
TOLSTOY = ROOT / "transom" / "models_builtin" / "tolstoy"
TEXT = "The Prince said: 'It's 1812!'\n\n  Ünïcödé 🙂"
VOCAB_SIZE = 320
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def write_model(directory: Path, **settings: Any) -> Path:
    """A small model with a tokenizer; `settings` change its config.json."""
    write_tiny_llama(directory, vocab_size=VOCAB_SIZE)
    path = directory / "config.json"
    special = {"bos_token_id": 0, "eos_token_id": 1}
    path.write_text(json.dumps({**json.loads(path.read_text()), **special, **settings}))
    write_tokenizer(directory, byte_level(), chat_template=TEMPLATE)
    return directory


def change_tensors(directory: Path, **changed: Any) -> None:
    """`__` in a name stands for a dot; None removes a tensor."""
    tensors = load_file(directory / "model.safetensors")
    tensors |= {name.replace("__", "."): values for name, values in changed.items()}
    save_file({name: values for name, values in tensors.items() if values is not None}, directory / "model.safetensors")


def converted(source: Path, target: Path, recipe: str = "F32") -> Path:
    convert(source, target, recipe, threads=2, force=False)
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def written(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as F32."""
    return converted(model, tmp_path_factory.mktemp("written") / "tiny.gguf")


def assert_same_weights(directory: Path, path: Path) -> None:
    own, theirs = open_weights(directory), open_weights(path)
    assert set(own.names()) == set(theirs.names())
    for name in own.names():
        np.testing.assert_array_equal(own.tensor(name), theirs.tensor(name), err_msg=name)


@pytest.mark.parametrize("case", CONVERTIBLE, ids=str)
def test_models_of_every_family_are_the_same(tmp_path: Path, case: GgufCase) -> None:
    directory = write_directory(case, tmp_path / "model", VOCAB_SIZE)
    write_tokenizer(directory, byte_level())
    path = converted(directory, tmp_path / "out.gguf")
    found, expected = read_model_config(path), ModelConfig.from_hf(directory)
    model_type = "llama" if case.model_type in ("ministral", "mistral") else case.model_type
    tokens_are_the_vocabularys: dict[str, Any] = {"bos_token_id": None, "eos_token_ids": (), "pad_token_id": None}
    changes = {"model_type": model_type, "dtype": "F32", **tokens_are_the_vocabularys}
    assert replace(found, **changes) == replace(expected, **changes)
    theirs, ours = Harness(directory), Harness(path)
    tokens = random_tokens(theirs, 70, seed=1)
    assert same_bits(ours.logits(tokens), theirs.logits(tokens))


@pytest.mark.parametrize("model_type", ["lfm2", "qwen3_moe"])
def test_what_must_be_exact_stays_f32_in_every_recipe(tmp_path: Path, model_type: str) -> None:
    """Convolutions, and what chooses experts; an expert's matrices become what others do, again from the file, too."""
    (case,) = (case for case in CONVERTIBLE if case.model_type == model_type)
    directory = write_directory(case, tmp_path / "model", VOCAB_SIZE)
    write_tokenizer(directory, byte_level())
    wide = converted(directory, tmp_path / "wide.gguf")
    for source in (directory, wide):
        file = open_gguf(converted(source, tmp_path / f"{source.stem}-narrow.gguf", "F16"))
        matrices = {name: file.info(name).dtype for name in file.names() if len(file.info(name).shape) > 1}
        exact = {name for name, dtype in matrices.items() if dtype == "F32"}
        assert exact == {name for name in matrices if "shortconv.conv." in name or "ffn_gate_inp" in name} != set()


def test_config_weights_tokenizer_and_template_are_the_same(model: Path, written: Path) -> None:
    assert replace(read_model_config(written), dtype="float32") == ModelConfig.from_hf(model)
    assert_same_weights(model, written)
    metadata = open_gguf(written).metadata
    assert Tokenizer.from_gguf(metadata).encode(TEXT) == Tokenizer.from_directory(model).encode(TEXT)
    assert metadata["tokenizer.chat_template"] == TEMPLATE
    assert metadata["general.name"] == "tiny"


@pytest.mark.parametrize("family", ["mistral", "qwen2", "biased llama"])
def test_every_family_keeps_its_weights(tmp_path: Path, family: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "mistral": {"model_type": "mistral", "sliding_window": 128},
        "qwen2": {"model_type": "qwen2"},
        "biased llama": {"attention_bias": True, "mlp_bias": True},
    }
    directory = write_model(tmp_path / "model", **settings[family])
    biases = {
        f"model__layers__{layer}__self_attn__{name}__bias": np.arange(size, dtype=np.float32)
        for layer in range(2)
        for name, size in (("q_proj", 48), ("k_proj", 24), ("v_proj", 24))
    }
    if family == "biased llama":
        for layer in range(2):
            biases[f"model__layers__{layer}__self_attn__o_proj__bias"] = np.ones(48, np.float32)
            for name, size in (("gate_proj", 80), ("up_proj", 80), ("down_proj", 48)):
                biases[f"model__layers__{layer}__mlp__{name}__bias"] = np.ones(size, np.float32)
    if family != "mistral":
        change_tensors(directory, **biases)
    path = converted(directory, tmp_path / "model.gguf")
    own, found = ModelConfig.from_hf(directory), read_model_config(path)
    model_type = "llama" if family == "mistral" else own.model_type
    assert replace(found, dtype="float32") == replace(own, model_type=model_type)
    assert_same_weights(directory, path)


@pytest.mark.parametrize("kept", ["embedding", "head", "both"])
def test_tied_embeddings_are_written_once(tmp_path: Path, kept: str) -> None:
    directory = write_model(tmp_path / "model", tie_word_embeddings=True)
    table = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    head = None if kept == "embedding" else table
    change_tensors(directory, lm_head__weight=head, **({"model__embed_tokens__weight": None} if kept == "head" else {}))
    path = converted(directory, tmp_path / "model.gguf")
    assert "output.weight" not in open_gguf(path).names()
    assert read_model_config(path).tie_word_embeddings
    np.testing.assert_array_equal(open_weights(path).tensor("model.embed_tokens.weight"), table)


@pytest.mark.parametrize("recipe", RECIPES)
def test_another_gguf_file_gives_the_same_bytes_as_the_directory(
    model: Path, written: Path, recipe: str, tmp_path: Path
) -> None:
    direct, again = plan_from_directory(model, recipe), plan_from_gguf(written, recipe)
    for name, plan in (("direct", direct), ("again", again)):
        write_gguf(tmp_path / f"{name}.gguf", plan.metadata, plan.tensors)
    assert (tmp_path / "direct.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes()
    assert direct.notes == again.notes


def test_matrices_of_odd_width_are_told_of(model: Path) -> None:
    [note] = plan_from_directory(model, "Q4_K").notes
    assert note.startswith("16 matrices become F16: their rows are no whole blocks")


def test_the_bundled_model_is_quantised_as_the_kernel_does(tmp_path: Path) -> None:
    path = converted(TOLSTOY, tmp_path / "tolstoy.gguf", "Q8_0")
    own, quantised = open_weights(TOLSTOY), open_weights(path)
    name = "model.layers.3.self_attn.k_proj.weight"
    exact = (own.tensor(name).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(quantised.tensor(name), kernels.quantize("q8_0", exact))
    assert quantised.info("model.norm.weight").dtype == "F32"


def test_weights_that_are_no_numbers_name_their_tensor(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    values = np.zeros((80, 48), np.float32)
    values[5, 7] = np.nan
    change_tensors(directory, model__layers__1__mlp__up_proj__weight=values)
    with pytest.raises(WeightsError, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight': row 5 holds NaN"):
        converted(directory, tmp_path / "out.gguf", "Q8_0")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model__norm__weight": None}, r"tensor 'model\.norm\.weight' is missing"),
        ({"model__norm__weight": np.ones(3, np.float32)}, r"has shape \[3\], the model needs \[48\]"),
        ({"model__extra__weight": np.ones(3, np.float32)}, r"1 tensors that the model does not have: model\.extra"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    directory = write_model(tmp_path / "model")
    change_tensors(directory, **changed)
    with pytest.raises(WeightsError, match=message):
        plan_from_directory(directory, "F16")


def test_a_gguf_file_of_a_vocabulary_alone_is_refused(written: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "vocabulary.gguf", dict(open_gguf(written).metadata), ())
    with pytest.raises(WeightsError, match=r"vocabulary\.gguf: holds no weights"):
        converted(tmp_path / "vocabulary.gguf", tmp_path / "out.gguf", "Q8_0")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("nothing", "out.gguf", "nothing: there is no such directory or file"),
        ("model/config.json", "out.gguf", r"config\.json: is neither a model's directory nor a GGUF file"),
        ("model", "out.bin", r"out\.bin: the name of the new file must end with \.gguf"),
        ("model", "missing/out.gguf", r"there is no directory .*missing"),
        ("model", "there.gguf", r"there\.gguf: exists already; --force replaces it"),
    ],
)
def test_paths_that_make_no_sense_are_refused_before_any_work(
    tmp_path: Path, source: str, target: str, message: str
) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "there.gguf").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=message):
        converted(tmp_path / source, tmp_path / target)
    assert (tmp_path / "there.gguf").read_bytes() == b"precious"


def test_the_command_says_what_it_wrote_and_what_went_wrong(model: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "out.gguf")
    good = run("convert", str(model), path, "--type", "q8_0")
    assert good.returncode == 0
    assert "out.gguf: " in one_line(good.stdout)
    assert "F32" in good.stdout
    assert "matrices become F16" in one_line(good.stderr)
    assert all(good.stderr.splitlines()), "a bar leaves no empty lines where there is no terminal"
    again = run("convert", str(model), path, "--type", "F16")
    assert (again.returncode, again.stdout) == (2, "")
    assert "--force replaces it" in one_line(again.stderr)
    assert run("convert", str(model), path, "--type", "F16", "--force").returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a tmpfs: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(model: Path, small_disk: Path) -> None:
    with pytest.raises(TransomError, match=r"out\.gguf: cannot be written: No space left on device"):
        converted(model, small_disk / "out.gguf")
    assert not list(small_disk.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_one_line(model: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TransomError, match="cannot be written: Permission denied"):
        converted(model, tmp_path / "out.gguf")
