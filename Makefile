# Everything a contributor needs. `make demo` and `make test` set up what they need by themselves.
# Python 3.11 with pip is all that has to be there: make PYTHON=python3.12 ... uses another one.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := src tests scripts benchmarks
# Two processes: the suite starts children that import torch, and memory is dearer than cores.
PYTEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types contracts docs new-rule bench keymap mutations corpus clean \
	oracle oracle-models oracle-lightning oracle-corpus oracle-repairs oracle-refactored

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
	@$(BIN)/python -m compileall -q src  # once, not in each of the hundreds of processes that the tests start
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

# Each part has an environment of its own, all of them ignored by git; `make --keep-going oracle` runs every part.
ORACLE_LIGHTNING := 1.9 2.2

oracle: oracle-models oracle-lightning $(if $(CORPUS),oracle-corpus oracle-repairs oracle-refactored oracle-resume-1.9)  ## Compare with public models and older Lightning (slow; gigabytes of torch): make oracle [CORPUS=FOLDER CROSSWALK=FILE]

oracle-models: .venv-oracle/installed
	.venv-oracle/bin/python scripts/check_refactorings.py

oracle-lightning: $(ORACLE_LIGHTNING:%=oracle-lightning-%)

oracle-lightning-%: .venv-lightning-%/installed
	.venv-lightning-$*/bin/python scripts/check_examples.py
	.venv-lightning-$*/bin/python scripts/check_manifests.py

oracle-corpus: $(VENV)/dev-installed
	$(BIN)/python scripts/check_matrix.py '$(CORPUS)'
	$(BIN)/python scripts/check_layouts.py '$(CORPUS)'
	$(BIN)/python scripts/check_scenarios.py '$(CORPUS)' '$(CROSSWALK)'
	$(BIN)/python scripts/check_resume.py '$(CORPUS)' --table scripts/resumes.json

oracle-resume-1.9: .venv-lightning-1.9/installed $(VENV)/dev-installed
	$(BIN)/python scripts/check_resume.py '$(CORPUS)' --python .venv-lightning-1.9/bin/python --table scripts/resumes.json

oracle-repairs: $(VENV)/dev-installed
	$(BIN)/python scripts/check_repairs.py '$(CORPUS)' '$(CROSSWALK)'

oracle-refactored: $(VENV)/dev-installed
	$(BIN)/python scripts/check_refactored.py '$(CORPUS)' --table scripts/refactored.json

.venv-oracle/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[oracle]'
	@touch $@

.PRECIOUS: .venv-lightning-%/installed
.venv-lightning-%/installed: tests/oracle/lightning-%.txt pyproject.toml
	$(PYTHON) -m venv .venv-lightning-$*
	.venv-lightning-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable . -r $<
	@touch $@
keymap: $(BIN)/relight  ## Score the key mapper on the bundled cases, and on a folder of more: make keymap CASES=FOLDER
	$(BIN)/python benchmarks/keymap_score.py --per-case
	$(if $(CASES),$(BIN)/python benchmarks/keymap_score.py '$(CASES)' --per-case)

mutations: $(VENV)/dev-installed  ## Count the silent changes of six architectures that a manifest shows, and false alarms.
	$(BIN)/python benchmarks/mutations_score.py
	$(BIN)/python scripts/check_silent_scenarios.py
	$(BIN)/python benchmarks/manifest_cost.py

corpus: $(BIN)/relight  ## Compare with what is known of a folder of real files: make corpus CORPUS=FOLDER
	$(BIN)/python scripts/check_corpus.py '$(CORPUS)'

clean:  ## Remove what was built.
	rm -rf $(VENV) .venv-oracle $(ORACLE_LIGHTNING:%=.venv-lightning-%) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
