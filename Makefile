.PHONY: help install demo test lint types imports docs benchmark clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 12

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(INSTALLED) ## make .venv with everything that tests and extras need

demo: install ## train and certify the embedded default (digits, small net)
	$(BIN)/python -m lipcert.train

test: install lint types imports ## lint, types, import contract, the whole test suite
	$(BIN)/python -m pytest

lint: install ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## type annotations
	$(BIN)/mypy

imports: install ## one-way imports
	$(BIN)/lint-imports

docs: install ## the documentation site, in site/; needs no network
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

benchmark: install ## costs of training steps and certification, as ratios
	$(BIN)/python -m lipcert.benchmark

clean: ## remove the environment and caches
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
