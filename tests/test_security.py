"""What no module of the package may do, read off its syntax; and that the operator's page names tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import transom

PACKAGE = Path(transom.__file__).parent
ROOT = PACKAGE.parent
PAGE = ROOT / "docs" / "security.md"

CODE_FROM_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "dbm", "yaml"}
CODE_FROM_DATA |= {"multiprocessing", "code", "codeop", "imp"}
NETWORK = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "huggingface_hub"}
NETWORK |= {"urllib3", "xmlrpc", "telnetlib", "http.server", "socketserver"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("importlib", "import_module"),
    ("torch", "load"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
    ("tempfile", "mktemp"),
}
CONNECTS = {"connect", "connect_ex", "create_connection", "open_connection", "open_unix_connection"}
CONNECTED_TO = {
    "cache/prefix_database.py": "a file",
    "cli/admin_client.py": "the operator's Unix socket",
    "engine/worker_process.py": "a socket pair with its own child",
    "server/admin_socket.py": "the operator's Unix socket",
}
MAY_TALK = {"cli/admin_client.py", "cli/server_client.py"}
"""The operator's own commands, to the server that he names."""


@cache
def modules() -> dict[str, ast.Module]:
    """By their paths."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_one_of(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def offences(tree: ast.AST) -> Iterator[str]:
    """Calls that make code, or a shell command, of a text."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: {node.func.id}"
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            name = (node.func.value.id, node.func.attr)
            if name in FORBIDDEN_ATTRIBUTES:
                yield f"line {node.lineno}: {'.'.join(name)}"
        for keyword in node.keywords:
            is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("shell", "allow_pickle", "trust_remote_code") and not is_off:
                yield f"line {node.lineno}: {keyword.arg}"


@pytest.mark.parametrize(
    ("source", "is_offence"),
    [
        ("eval(text)", True),
        ("import os; os.system(text)", True),
        ("np.load(path, allow_pickle=flag)", True),
        ("run(command, shell=True)", True),
        ("run(command, shell=False)", False),
        ("pattern.compile(text)", False),
    ],
)
def test_the_search_finds_what_it_is_for(source: str, is_offence: bool) -> None:
    assert bool(list(offences(ast.parse(source)))) == is_offence


def test_s01_no_module_makes_code_of_data() -> None:
    for name, tree in modules().items():
        assert not [each for each in imported(tree) if is_one_of(each, CODE_FROM_DATA)], name
        assert not list(offences(tree)), name
    assert len(modules()) > 200


def test_s13_nothing_but_the_operators_commands_opens_a_connection_to_anywhere() -> None:
    """The server fetches nothing, whatever a model, a template, a schema or a request says."""
    talking = {name for name, tree in modules().items() if any(is_one_of(each, NETWORK) for each in imported(tree))}
    assert talking == MAY_TALK
    connecting = {name for name, tree in modules().items() if CONNECTS & set(called(tree))}
    assert connecting == set(CONNECTED_TO)


def called(tree: ast.AST) -> Iterator[str]:
    """Names of the methods that are called; those of sqlite3 open files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_sqlite = isinstance(node.func.value, ast.Name) and node.func.value.id == "sqlite3"
            yield "" if is_sqlite else node.func.attr


def test_the_operators_page_speaks_of_every_rule_and_names_tests_that_exist() -> None:
    page = PAGE.read_text()
    assert set(re.findall(r"^\| (S\d+) ", page, re.MULTILINE)) == {f"S{number}" for number in range(1, 25)}
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    for path, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"
