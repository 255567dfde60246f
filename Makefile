# Everything a contributor needs. `make demo` and `make test` set up what they need by themselves.
# Python 3.11 with pip is all that has to be there: make PYTHON=python3.12 ... uses another one.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := src tests scripts benchmarks
# Two processes: the suite starts children that import torch, and memory is dearer than cores.
PYTEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types contracts docs new-rule bench keymap corpus clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/relight: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# A stamp of its own: the demo needs neither torch nor the development tools.
$(VENV)/dev-installed: $(BIN)/relight pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(BIN)/relight  ## Diagnose the bundled broken checkpoints (needs no torch).
	@$(BIN)/relight demo

test: $(VENV)/dev-installed  ## Run the tests (installs torch and lightning).
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile

check: $(VENV)/dev-installed lint types contracts docs-check test  ## All that has to be green before a commit.

format: $(VENV)/dev-installed  ## Format the code.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: $(VENV)/dev-installed  ## Check format and lint.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/dev-installed  ## Check types.
	$(BIN)/mypy

contracts: $(VENV)/dev-installed  ## Check that imports follow the layers.
	$(BIN)/lint-imports

docs: $(VENV)/dev-installed  ## Write the generated pages.
	$(BIN)/python scripts/generate_docs.py

docs-check: $(VENV)/dev-installed
	$(BIN)/python scripts/generate_docs.py --check

new-rule: $(VENV)/dev-installed  ## Start a rule: make new-rule CODE=RL312 NAME=tied-weights
	$(BIN)/python scripts/new_rule.py $(CODE) $(NAME)

bench: $(VENV)/dev-installed  ## Measure inspect beside import torch (a minute or two).
	$(BIN)/python benchmarks/inspect_cost.py

keymap: $(BIN)/relight  ## Score the key mapper on the bundled cases, and on a folder of more: make keymap CASES=FOLDER
	$(BIN)/python benchmarks/keymap_score.py --per-case
	$(if $(CASES),$(BIN)/python benchmarks/keymap_score.py '$(CASES)' --per-case)

corpus: $(BIN)/relight  ## Compare with what is known of a folder of real files: make corpus CORPUS=FOLDER
	$(BIN)/python scripts/check_corpus.py '$(CORPUS)'

clean:  ## Remove what was built.
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
