# Everything runs in .venv, which the first target that needs it makes. Wanted beforehand: python3.11, g++ and make.
PYTHON ?= python3.11
# Tests that run at the same time. Results do not depend on threads, so each worker has one of PyTorch's.
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/installed
DEV := .venv/dev
NATIVE := CMakeLists.txt $(wildcard src/native/*)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# The second is what newer versions of pip read for the build itself; older ones take the first for both.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo check test slow lint pages docs native viewer wheel sanitize fuzz clean

# The package and PyTorch, and nothing that only its developers need.
install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/vqrf demo --out demo

# After every change: what breaks most often, in a minute and a half.
check: lint
	$(PYTEST) -m "not slow" tests/test_rooms.py tests/test_pages.py tests/test_geometry.py tests/test_cameras.py tests/kernels tests/codec

# Before a change lands: all but what is marked slow.
test: lint
	$(PYTEST) -m "not slow" --durations=25

# Tests that are marked slow: damaged files by the ten thousand, the viewer in Chromium, training on real photos.
slow: $(DEV)
	$(PYTEST) -m slow --durations=25

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is written from other files: docs/results.md and the README's table, the index of the log.
pages: $(DEV)
	$(BIN)/python docs/write.py

# The documentation site, in build/docs/html. Needs no network; a warning is an error.
docs: $(DEV)
	$(BIN)/sphinx-build -q -W --keep-going -b html -d build/docs/doctrees docs build/docs/html

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

# A wheel of this machine and a source distribution, in dist.
wheel: $(INSTALLED)
	$(BIN)/pip wheel --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build --sdist --outdir dist

sanitize:
	tests/native/sanitize.sh

fuzz:
	tests/fuzz/run.sh 1000000

clean:
	rm -rf .venv build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --editable ".[train]"
	$(BIN)/python -c "import vqrf._native"
	touch $@

$(DEV): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --editable ".[train,dev,bench,docs]"
	$(BIN)/python -c "import vqrf._native"
	touch $(INSTALLED) $@
