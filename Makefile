# Targets are documented by the text behind `##`; `make help` prints it.
SHELL := bash
.DEFAULT_GOAL := help
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --no-header --universal --python-version 3.11

.PHONY: help
help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | while IFS= read -r line; do printf '  %-10s %s\n' "$${line%%:*}" "$${line#*## }"; done

.PHONY: setup
setup: ## make .venv from the lock files, and install what the tests use (as root; quick when nothing changed)
	@scripts/setup.sh

.PHONY: demo
demo: setup ## build a dataset, pretrain on 3 local nodes and a spare, kill two things, export, generate
	$(BIN)/python scripts/demo.py

.PHONY: api-server
api-server: setup ## compile the API server that the wire tests use (once, some minutes; without it they are skipped)
	$(BIN)/python tests/cluster/go_programs.py

.PHONY: test
test: setup ## every test: unit, wire (a real API server, compiled first), train (torchrun on the CPU), e2e (a real cluster)
	scripts/setup_cluster.sh
	$(BIN)/python -m pytest tests -m "not long"

.PHONY: e2e
e2e: setup ## every story on a real cluster of four nodes (needs root), the long ones too
	scripts/setup_cluster.sh
	$(BIN)/python -m pytest tests/e2e

.PHONY: drill
drill: setup ## every fault that `tessera drill` knows, on real local runs
	$(BIN)/python -m pytest tests/train/test_drills.py tests/train/test_loss_guard.py

.PHONY: test-fast
test-fast: setup ## the fast tests alone: no torchrun, no API server
	$(BIN)/python -m pytest tests/unit

.PHONY: cluster
cluster: setup ## start a real cluster of four nodes on this machine, as the tests use it (needs root)
	scripts/setup_cluster.sh
	$(BIN)/python tests/cluster/cluster.py up

.PHONY: lint
lint: setup ## style, format, the rooms' imports, drift of what is generated
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tessera_api.crd --check crds
	$(BIN)/python -m tessera_api.crd --check charts/tessera/files
	$(BIN)/python -m tessera_operator.metrics_document --check docs/metrics.md
	$(BIN)/python -m tessera_operator.dashboard --check charts/tessera/files/dashboard.json

.PHONY: types
types: setup ## mypy, strict
	$(BIN)/mypy

.PHONY: bench
bench: setup ## every script in benchmarks/; BENCH=--quick for the short form
	$(BIN)/python benchmarks/run.py $(BENCH)

.PHONY: crds
crds: setup ## write crds/*.yaml anew from the models
	$(BIN)/python -m tessera_api.crd crds
	$(BIN)/python -m tessera_api.crd charts/tessera/files

.PHONY: docs
docs: setup ## write docs/metrics.md and the dashboard anew from their tables
	$(BIN)/python -m tessera_operator.metrics_document docs/metrics.md
	$(BIN)/python -m tessera_operator.dashboard charts/tessera/files/dashboard.json

.PHONY: lock
lock: setup ## write the lock files anew from pyproject.toml and scripts/bootstrap.in
	$(LOCK) --all-extras pyproject.toml -o requirements.lock
	$(LOCK) -c requirements.lock scripts/bootstrap.in -o scripts/bootstrap.lock
	$(LOCK) -c requirements.lock --extra operator pyproject.toml -o operator/requirements.lock
	$(LOCK) -c requirements.lock --extra trainer pyproject.toml -o trainer_image/requirements.lock

.PHONY: clean
clean: ## remove .venv, caches and local runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs .tessera
	find crds operator trainer_image tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +
