# Everything runs from .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
# To run a command, and to work on it: what every test needs, so that only a GPU's are skipped.
RUN := .venv/.installed-to-run
WORK := .venv/.installed-to-work
# Which of FAISS's two distributions: the one for CUDA brings a gigabyte of libraries with it.
FAISS ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
# Workers start with halves of the list, which keeps a file's fixtures together, and end evenly.
PARALLEL := -n auto --dist worksteal
# The pretended device changes torch for a whole process.
EMULATED = PYTHONPATH=tests $(BIN)/python -m pytest -p helpers.pretended_cuda \
  $(shell grep -rlE "mark\.(gpu|emulated)" tests)

.PHONY: demo test test-slow test-emulated bench check docs prose format clean

demo: $(RUN)  ## Train two small models, catch the one that copies
	$(BIN)/memaudit demo

test: $(WORK)  ## The fast tests and the examples in the documents, on every core
	$(BIN)/python -m pytest $(PARALLEL)
	$(EMULATED) -m "(gpu or emulated) and not slow"

test-slow: $(WORK)  ## All tests
	$(BIN)/python -m pytest $(PARALLEL) -m ""
	$(EMULATED) -m "gpu or emulated"

test-emulated: $(WORK)  ## The tests for a GPU, on a pretended one
	$(EMULATED) -m "(gpu or emulated) and not slow"

bench: $(WORK)  ## The benchmarks; DATA="TRAIN QUERIES" for images of your own
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA))

check: $(WORK) prose docs  ## Lint, formatting, types, prose, the documentation site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(WORK)  ## The documentation site, strictly and without the network, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

prose: $(WORK)  ## Spelling, phrases, and the width of Markdown
	$(BIN)/codespell
	$(BIN)/python tools/prose.py

format: $(WORK)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(RUN): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); memaudit needs Python 3.11 or newer."; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	# uv fetches torch's wheels side by side: under a minute instead of several.
	$(BIN)/python -m pip install --quiet uv
	# Both of FAISS's distributions provide the module faiss: an earlier one has to go first.
	$(BIN)/uv pip uninstall --quiet --python $(BIN)/python faiss-cpu faiss-gpu
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[$(FAISS),demo]"
	touch $@

$(WORK): $(RUN) tests/references.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[$(FAISS),data,demo,diffusers,medical,notebook,tensorboard,docs,dev]"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement tests/references.txt
	touch $@

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
