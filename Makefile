# The same targets locally and in CI. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format gpu bench clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed  ## make .venv with epitopo and its pinned dependencies

demo: .venv/installed  ## train digits three ways; writes runs/demo/report.html
	rm -rf runs/demo
	$(BIN)/python -m dst demo --out runs/demo
	$(BIN)/python -m analysis report runs/demo

test: .venv/installed-dev  ## run the tests (no network, no GPU)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --max-worker-restart 0

test-slow: .venv/installed-dev  ## run the tests that take minutes, and all others on new random examples
	$(BIN)/python -m pytest -q -m slow
	$(BIN)/python -m pytest -q --hypothesis-profile=default

lint: .venv/installed-dev  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/installed-dev  ## let ruff format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

gpu: .venv/installed-dev  ## run the GPU tests and benchmarks
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python -m dst bench layers --device cuda
	$(BIN)/python -m dst bench low-rank --device cuda
	$(BIN)/python -m dst bench scores --device cuda
	$(BIN)/python -m dst bench update --device cuda

bench: .venv/installed  ## run the CPU benchmarks
	$(BIN)/python -m dst bench

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "epitopo needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt topo/_version.py
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	@touch $@
