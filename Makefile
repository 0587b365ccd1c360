# make demo   run the main job on the built-in model        make test   all tests
# make check  format, lint, types                           make help   the rest
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SEED ?= 0
# Side by side. Fixtures of a file are made once; of slow ones all that start Ray share a process, and all that kill.
FAST_TESTS = $(BIN)/python -m pytest -m 'not slow' --numprocesses auto --maxprocesses 4 --dist loadfile
SLOW_TESTS = $(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadgroup --durations 25
READY := $(VENV)/.promptmill-installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-s3 test test-fast check format faults engines families gpu prove bench mutants clean

help:  ## This list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY)  ## Set up .venv with pinned versions (the other targets do it by themselves)

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"Promptmill needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}. Give one: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## Prompts to images on the built-in model, into out/shapes-demo
	$(BIN)/promptmill run jobs/examples/shapes.yaml

demo-s3: $(READY)  ## The demo against a real S3 server on this machine
	$(BIN)/python -m tests.servers.s3 -- $(BIN)/promptmill run jobs/examples/shapes.yaml --set 'output.url=s3://{bucket}/shapes-demo'

test: $(READY)  ## All tests, the fast ones first
	@$(FAST_TESTS); fast=$$?; $(SLOW_TESTS) && exit $$fast

test-fast: $(READY)  ## Without the slow ones (Ray, S3, kills)
	$(FAST_TESTS)

check: $(READY)  ## Format, lint, types, and which room imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.types $(BIN)/lint-imports --no-logo

format: $(READY)  ## Rewrite to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faults: $(READY)  ## Break everything that can break and count what was lost; SEED=n, LONG=1
	$(BIN)/python -m tests.faults --seed $(SEED) $(if $(LONG),--long)

engines: $(READY)  ## A night on a cluster of machines made of namespaces, Ray's autoscaler, and Slurm; needs root
	PROMPTMILL_ENGINES=1 $(BIN)/python -m pytest tests/engines -rs

families: $(READY)  ## A tiny pipeline of each text-to-image class against every promise
	$(BIN)/python -m tests.families

gpu: $(READY)  ## What only a GPU can show: promises on CUDA, offload, small weights, two GPUs for one model
	$(BIN)/python -m pytest tests/gpu --timeout 1800

prove: $(READY)  ## Whether synthetic images help: shapes, digits, Fashion-MNIST, and controls; long, goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.proofs

bench: $(READY)  ## The benchmark table of tests/README.md
	$(BIN)/python -m tests.benchmarks

mutants: $(READY)  ## One-line mutants of the heart against its fast tests; EVERY=n tries each n-th
	$(BIN)/python -m tests.mutants --every $(or $(EVERY),1)

clean:  ## Remove what the targets above made, out/ excepted
	rm -rf $(VENV) .mutants .mypy_cache .ruff_cache .pytest_cache
