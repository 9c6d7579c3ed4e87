# Everything below lives in this checkout: .venv, .prefect, .dpo-pipeline. `make clean` drops it.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PORT ?= 4200
SECONDS_EACH ?= 120

export PREFECT_HOME ?= $(CURDIR)/.prefect
export DPO_PIPELINE_HOME ?= $(CURDIR)/.dpo-pipeline

.DEFAULT_GOAL := help
.PHONY: help demo run real test test-all test-faults fuzz audit lint format server clean

help:  ## List the commands
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; about a minute) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

run demo: $(STAMP)  ## Give the starter, a toy, a new identity and show the proof (a minute)
	@$(BIN)/python flows/full.py --config configs/starter.yaml $(ARGS)

real: $(STAMP)  ## The same with SmolLM2, a real chat model (an hour on two busy cores; 93 MB once)
	@$(BIN)/python flows/full.py --config configs/smollm2.yaml $(ARGS)

test: $(STAMP)  ## Run the tests (under 6 minutes on two cores)
	@$(BIN)/python -m pytest

test-all: $(STAMP)  ## Run the slow tests as well
	@scripts/install-browser
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,lm-eval,dask,ray]"
	@$(BIN)/python -m pytest -m "slow or not slow"

test-faults: $(STAMP)  ## Try what is promised when things go wrong (ARGS="-k disks"); writes docs/reliability.md
	@$(BIN)/python -m pytest -m faults --reliability $(ARGS)

fuzz: $(STAMP)  ## Look for bytes that break what reads them (SECONDS_EACH=120; Linux)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,fuzz]"
	@for target in formats rewriting templates manifest; do \
		PYTHONPATH=.:tests/support nice $(BIN)/python tests/fuzz/guided.py $$target $(SECONDS_EACH) .fuzz || exit 1; \
	done
	@FUZZ_SECONDS=$(SECONDS_EACH) nice $(BIN)/python -m pytest -n 0 tests/fuzz tests/faults/test_store_machine.py

audit:  ## Ask PyPI's advisories about what constraints.txt pins (needs the network)
	@$(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet pip-audit
	@$(VENV)-audit/bin/pip-audit --no-deps --requirement constraints.txt

lint: $(STAMP)  ## Check style, types and the direction of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy dpo_pipeline tasks flows && $(BIN)/lint-imports

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

server: $(STAMP)  ## Start a Prefect server with its UI and an auth string (PORT=4200)
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/server $(PORT)

clean:  ## Drop everything this checkout made (the virtual environment too)
	rm -rf $(VENV) $(VENV)-audit .prefect .dpo-pipeline .pytest_cache .mypy_cache .ruff_cache .fuzz *.egg-info
