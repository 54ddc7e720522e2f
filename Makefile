# Two commands are enough: `make serve` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON := .venv/bin/python
MODEL ?= demo
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup serve test soak bench bench-idle bench-scheduler lint format gen lock demo-model dashboard screenshot clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## Make .venv and install everything that the lock file names
	@scripts/setup

serve: setup ## Serve MODEL (default: the demo model) on 127.0.0.1:50051, the bridge and its page on :8080
	@exec .venv/bin/tokenstream up --model "$(MODEL)"

test: setup ## Run all tests, the real engine included (PYTEST_ARGS="-k name" for some)
	@scripts/test-tools
	@scripts/test $(PYTEST_ARGS)

soak: setup ## A minute of each kind of load, every token checked, nothing may be left (SOAK_SECONDS=600 for longer)
	@SOAK_SECONDS=$${SOAK_SECONDS:-60} $(PYTHON) -m pytest tests/soak $(PYTEST_ARGS)

bench: setup ## Compare what frontends cost, ours and vLLM's, over one simulated engine (BENCH_ARGS="--help")
	@bench/setup
	@$(PYTHON) -m bench $(BENCH_ARGS)

bench-idle: setup ## Hold 5,000 streams at once: memory of each, lag of the event loop (BENCH_ARGS="--help")
	@$(PYTHON) -m bench.idle $(BENCH_ARGS)

bench-scheduler: setup ## Compare our scheduler with vLLM's own, in virtual time (BENCH_ARGS="--help")
	@$(PYTHON) -m bench.scheduling $(BENCH_ARGS)

lint: setup ## Style, types, import rules, generated code, protocol files
	@scripts/lint

format: setup ## Put the code into its one form
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix --quiet .
	@scripts/buf format --write .

gen: setup ## Make gen/ anew from protos/
	@scripts/generate

lock: ## Resolve requirements/*.lock anew
	@scripts/lock

demo-model: setup ## Train the demo model anew (about a quarter of an hour)
	@$(PYTHON) -m demo_model.train

dashboard: setup ## Make the chart's Grafana dashboard anew
	@$(PYTHON) scripts/dashboard.py

screenshot: setup ## Take pictures of the page while `make serve` runs elsewhere, into docs/images
	@scripts/test-tools
	@$(PYTHON) scripts/screenshot.py

clean: ## Remove what was installed and cached here
	@rm -rf .venv .venv-bench node_modules dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
