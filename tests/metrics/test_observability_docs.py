"""Page, dashboard and alerts name metrics that exist, and the page all of them."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.server.asgi import ask, complete
from tests.server.served import make_app

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "packaging" / "grafana" / "transom.json"
RULES = ROOT / "packaging" / "prometheus" / "transom.rules.yml"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("docs", ROOT / "scripts" / "write_metrics_docs.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    assert page == script.render(page), "run scripts/write_metrics_docs.py"


async def test_the_page_names_all_that_a_server_shows_and_nothing_else(script: ModuleType) -> None:
    app = make_app()
    await complete(app, max_tokens=2)
    text = (await ask(app, "GET", "/metrics")).body.decode()
    shown = {family.name for family in text_string_to_metric_families(text)}
    assert {family.name for family in script.families()} == shown


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, expression) of all panels and alerts."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_every_query_names_metrics_and_labels_that_exist(script: ModuleType) -> None:
    labels = {
        family.name: {label for sample in family.samples for label in sample.labels} for family in script.families()
    }
    num_metrics = 0
    for place, expression in expressions():
        assert expression.count("(") == expression.count(")"), place
        named = re.findall(r"\b((?:transom|process)_\w+)(?:\{([^}]*)\})?", expression)
        assert named or expression.startswith("up{"), place
        for name, selectors in named:
            num_metrics += 1
            assert name in script.series(), f"{place}: {name}"
            family = next(each for each in labels if name in (each, *(each + suffix for suffix in SUFFIXES)))
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors):
                assert label in {*labels[family], "instance"}, f"{place}: {label} of {name}"
    assert num_metrics > 50


SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def test_the_dashboard_is_templated_and_its_panels_do_not_overlap() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "instance", "model"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        rows, columns = range(place["y"], place["y"] + place["h"]), range(place["x"], place["x"] + place["w"])
        cells = {(row, column) for row in rows for column in columns}
        assert not cells & taken
        assert columns.stop <= 24
        taken |= cells
    for title, expression in expressions():
        if "process_" not in expression and "$" in expression and "label_values" not in expression:
            assert 'model=~"$model"' in expression and 'instance=~"$instance"' in expression, title
