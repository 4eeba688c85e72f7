# The tasks of this repository. Everything happens in .venv, which the first task makes.

PYTHON ?= $(firstword $(wildcard .venv/bin/python) python3)
VENV := .venv/bin
# What Python compiles once need not be compiled again by every server that is started.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: setup ## what the plugin buys, in about five minutes; results go to out/demo
	$(VENV)/pensieve demo --out out/demo

.PHONY: test
test: lint ## lint, then the fast tests, then those that start vLLM
	$(VENV)/python -m pytest

.PHONY: test-long
test-long: setup-dev ## what is too slow for `make test`: every command line of the originals, soaks, real servers
	$(VENV)/python -m pytest -m long

.PHONY: lint
lint: setup-dev ## style, types, and which part imports which
	$(VENV)/python -m ruff check .
	$(VENV)/python -m ruff format --check .
	$(VENV)/python -m mypy
	$(VENV)/lint-imports --no-cache --no-logo

.PHONY: format
format: setup-dev ## put the code into the common format
	$(VENV)/python -m ruff check --fix .
	$(VENV)/python -m ruff format .

.PHONY: conformance
conformance: setup-dev ## vLLM's own scheduler tests, with its classes and with ours
	scripts/vllm_conformance.sh

.PHONY: patches
patches: setup-dev ## apply patches/ to vLLM's source archive, and run vLLM's tests with them
	$(VENV)/python scripts/vllm_patches.py

.PHONY: setup
setup: ## make .venv with what the package needs
	@$(PYTHON) scripts/setup_env.py

.PHONY: setup-dev
setup-dev: ## make .venv with what the tests need as well
	@$(PYTHON) scripts/setup_env.py --dev

.PHONY: dist
dist: setup ## wheel and source archive in dist/
	$(VENV)/python -m hatchling build -d dist

.PHONY: clean
clean: ## remove .venv and everything that was made
	rm -rf .venv out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
