"""`transom models`: what a registry serves, whatever form the models have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from tests.gguf_models import write_gguf_of
from tests.golden_models import write_golden_model
from transom.cli.models import list_models

TOLSTOY = Path(__file__).parents[2] / "transom" / "models_builtin" / "tolstoy"


def test_a_directory_and_a_gguf_file_are_listed_with_the_types_of_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf_of(TOLSTOY, tmp_path / "m.gguf", metadata={"general.file_type": 0})
    models = [{"id": "directory", "path": str(TOLSTOY)}, {"id": "file", "path": "m.gguf"}]
    (tmp_path / "config.json").write_text(json.dumps({"models": models}))
    list_models(tmp_path / "config.json", as_json=True)
    directory, file = json.loads(capsys.readouterr().out)
    assert (directory["quantization"], file["quantization"]) == ("bfloat16", "F32")
    assert directory["num_parameters"] == file["num_parameters"] == file["weights_bytes"] // 4
    for key in ("context_window", "attention_window", "kv_bytes_per_token"):
        assert directory[key] == file[key]
    list_models(tmp_path / "config.json", as_json=False)
    assert "m.gguf" in capsys.readouterr().out


def test_a_model_that_cannot_be_read_hides_none_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "martian").mkdir()
    (tmp_path / "martian" / "config.json").write_text('{"model_type": "martian"}')
    entries = {"gone": "nowhere", "good": str(TOLSTOY), "strange": "martian"}
    models = [{"id": name, "path": path} for name, path in entries.items()]
    (tmp_path / "config.json").write_text(json.dumps({"models": models}))
    for as_json in (True, False):
        with pytest.raises(typer.Exit) as ended:
            list_models(tmp_path / "config.json", as_json=as_json)
        assert ended.value.exit_code == 1
        shown = capsys.readouterr()
        assert "good" in shown.out
        assert "strange" not in shown.out
        gone, strange = shown.err.splitlines()
        assert gone.startswith("transom: the model gone cannot be served: ")
        assert 'model_type "martian" is not supported' in strange


def test_a_window_of_some_layers_is_not_shown_as_that_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_golden_model("gemma2", tmp_path / "gemma")
    models = [{"id": "some", "path": "gemma"}, {"id": "all", "path": "gemma", "sliding_window": 10}]
    (tmp_path / "config.json").write_text(json.dumps({"models": models}))
    list_models(tmp_path / "config.json", as_json=False)
    _, some, every = capsys.readouterr().out.splitlines()
    assert "tokens in sliding layers" in some
    assert "10 tokens  " in every
