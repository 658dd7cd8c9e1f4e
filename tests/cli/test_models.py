"""`transom models`: what a registry serves, whatever form the models have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gguf_models import write_gguf_of
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
