"""What can be named on a hub, and what no name may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.errors import ConfigError
from transom.hub.model_reference import ModelReference, is_plain_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Org/Name-7B.v1", ModelReference("Org/Name-7B.v1")),
        ("org/name:Q4_K_M", ModelReference("org/name", quantization="Q4_K_M")),
        ("org/name/dir/file-Q8_0.gguf", ModelReference("org/name", file="dir/file-Q8_0.gguf")),
        ("hf.co/org/name:Q8_0", ModelReference("org/name", quantization="Q8_0")),
        ("https://huggingface.co/org/name", ModelReference("org/name")),
    ],
)
def test_a_model_a_type_or_a_file_of_it(text: str, expected: ModelReference) -> None:
    assert ModelReference.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "../x",
        "a/..",
        "a/b/../c",
        "a/b/.git",
        "/a/b",
        "a//b",
        "a/b:",
        "a/b:../x",
        "a/b c",
        "a/b\0",
        "a/b?x=1",
        "ä/b",
        "a\\b/c",
        "a--b/c",
    ],
)
def test_s14_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a model of a hub"):
        ModelReference.parse(text)


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "-x", "a b", "a?b", "x" * 129])
def test_s14_a_revision_is_a_plain_name(revision: str) -> None:
    with pytest.raises(ConfigError, match="is not a branch, tag or commit"):
        ModelReference.parse("a/b", revision)


@given(st.text())
def test_s14_a_plain_path_never_leads_out_of_a_directory(path: str) -> None:
    if is_plain_path(path):
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        assert path.isprintable()
