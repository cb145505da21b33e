# Everything runs in .venv, which the first target that needs it makes. Wanted beforehand: python3.11, g++ and make.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed
NATIVE := CMakeLists.txt $(wildcard src/native/*)

# The second is what newer versions of pip read for the build itself; older ones take the first for both.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint native viewer sanitize fuzz clean

demo: $(INSTALLED)
	$(BIN)/vqrf demo --out demo --overwrite

test: lint
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The compiled core anew, and nothing else.
native: $(INSTALLED)
	$(BIN)/pip install --no-deps --force-reinstall --editable .
	$(BIN)/python -c "import vqrf._native"

# The script that the pages hold, and the module of the npm package, from viewer/src. Wants npm.
viewer: viewer/node_modules
	cd viewer && npm run --silent build

viewer/node_modules: viewer/package-lock.json
	cd viewer && npm ci --no-audit --no-fund
	touch $@

sanitize:
	tests/native/sanitize.sh

fuzz:
	tests/fuzz/run.sh 1000000

clean:
	rm -rf .venv build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --editable ".[train,dev,bench]"
	$(BIN)/python -c "import vqrf._native"
	touch $@
