.PHONY: help install demo test lint types imports hooks docs benchmark zoo-check fuzz browser-check clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(INSTALLED) ## make .venv with everything that tests and extras need

demo: install ## train and certify the embedded default (digits, small net)
	$(BIN)/python -m lipcert.train

test: export PYTHONDONTWRITEBYTECODE := # the suite's many processes share what one has compiled
test: install lint types imports ## lint, types, import contract, the whole test suite
	$(BIN)/python -m pytest $(PARALLEL)

lint: install ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## type annotations
	$(BIN)/mypy

imports: install ## one-way imports
	$(BIN)/lint-imports

hooks: install ## run lint, types and imports before every commit
	$(BIN)/pre-commit install

docs: install ## the documentation site, in site/; needs no network
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

benchmark: install ## costs of training steps and certification, as ratios
	$(BIN)/python -m lipcert.benchmark

zoo-check: install ## check the zoo, 20 rows a record; DATA=FOLDER of data
	$(BIN)/python -m lipcert.zoo verify --count 20 $(if $(DATA),--data-root $(DATA))

fuzz: install ## attack drawn networks for FUZZ_SECONDS (600), from FUZZ_SEED
	$(BIN)/python -m tests.fuzz

browser-check: install ## look at a report in headless Chromium, which must be installed
	$(BIN)/python -m tests.browser.check

clean: ## remove the environment and caches
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
