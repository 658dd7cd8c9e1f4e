"""The configuration page equals what the code would write."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from transom.config import not_supported, registry_config

ROOT = Path(__file__).parents[2]


def _script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("docs", ROOT / "scripts" / "write_configuration_docs.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == _script().render(), "run scripts/write_configuration_docs.py"


def test_every_key_has_a_meaning() -> None:
    for _, section in _script().SECTIONS:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_the_table_of_missing_features_names_keys_that_exist() -> None:
    entry = registry_config.ModelEntry.model_validate({"id": "a", "path": "x"})
    assert not list(not_supported.all_unsupported(entry, not_supported.OF_AN_ENTRY))
    for line in not_supported.OF_AN_ENTRY:
        assert not line.is_used(entry)
