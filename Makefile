# Hotlog's workshop.  `make` lists what can be done; every target sets itself up.
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/pytest: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(BIN)/pytest ## virtual environment with everything for development

demo: setup ## a year of flights: load, tier, replay, export, cost
	$(BIN)/hotlog demo

serve: setup ## a broker on 127.0.0.1:9092, data in ./hotlog-data
	$(BIN)/hotlog serve

check: setup ## formatting, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff format the tree
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## all tests, with a real object store (MinIO where it can be had)
	$(BIN)/pytest -n 2

sim: setup ## the simulator over more seeds: make sim SEEDS=500, or SEEDS=20:60; small stories from seed 20 on
	HOTLOG_SIM_SEEDS=$(or $(SEEDS),50) $(BIN)/pytest tests/sim

mutants: setup ## plant a bug at a time in a copy, and see the test that finds it: make mutants ONLY=groups
	$(BIN)/python -m tests.mutants $(ONLY)

bench: setup ## throughput, latency, small requests, growth, cold replay; beside Apache Kafka where Java is at hand
	$(BIN)/python -m tests.bench

changelog: setup ## a million updates of ten thousand keys in a compacted, tiered topic, read all the while (some ten minutes)
	$(BIN)/python -m tests.compaction.changelog $(or $(UPDATES),1000000) $(or $(KEYS),10000)

docs: setup ## print the generated pages of docs/ anew
	$(BIN)/python -m tests.house.generate

minio: setup ## a MinIO on 127.0.0.1:9000 without Docker
	$(BIN)/python infra/minio/serve.py

hooks: setup ## check before every commit
	$(BIN)/pre-commit install

clean: ## remove caches and build products (data directories stay)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help setup demo serve check format test sim mutants bench changelog docs minio hooks clean
