# Plain make. Only `setup` and `lock` use the network; all else runs offline.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down test check bench wheel clean lock
SHELL := /bin/bash

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
READY := $(VENV)/.ready
LUMOS_HOME ?= .lumos
# Processes that share the tests; each may hold a JVM, so two gigabytes of memory a process.
WORKERS ?= 2
SPARK := $(LUMOS_HOME)/spark/prepared.json
POSTGRES := $(VENV)/postgres.json
MINILAKE := $(VENV)/minilake/.ready

help: ## Print this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(READY) ## Make .venv from the lock, prepare Spark and a database (network; 2 to 3 minutes)
	@$(MAKE) --no-print-directory --jobs=3 $(SPARK) $(POSTGRES) $(MINILAKE)

# Repeated `make test` or `make demo` must not reinstall: only these two files can change the venv.
$(READY): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	  || { echo "LUMOS needs Python 3.11 with venv; '$(PYTHON)' is missing or another version." \
	       "Install it (apt-get install python3.11 python3.11-venv, or pyenv install 3.11)" \
	       "or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@java=$${JAVA_HOME:+$$JAVA_HOME/bin/}java; \
	  major=$$("$$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p'); \
	  [ "$${major:-0}" -ge 17 ] \
	  || { echo "Spark needs Java 17 or newer; found $${major:-none} at '$$java'." \
	       "Install it: apt-get install openjdk-17-jre-headless" \
	       "(and point JAVA_HOME at it, if set)" >&2; exit 2; }
	[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@# The installer comes from the same lock, hash and all.
	[ -x $(BIN)/uv ] || { \
	  awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.txt > $(VENV)/uv.txt \
	  && $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt; }
	$(BIN)/uv pip sync --quiet --python $(PY) --require-hashes --compile-bytecode requirements.txt
	$(BIN)/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

# Keyed inside by the versions of Java, pyspark and delta: a second run does nothing.
$(SPARK): $(READY)
	LUMOS_HOME=$(LUMOS_HOME) $(PY) -m lumos.aggregate.prepare
	@touch $@

# Keyed inside by the versions of Airflow, MLflow and PostgreSQL.
$(POSTGRES): $(READY)
	$(PY) -m demo.template
	@touch $@

demo: $(READY) $(SPARK) $(POSTGRES) ## Real data through the real Airflow, end to end
	$(PY) -m demo run

up: $(READY) $(SPARK) $(POSTGRES) ## Start the local Airflow and leave it running
	$(PY) -m demo up

down: ## Stop what `up` started
	$(PY) -m demo down

check: $(READY) ## Format, lint, types, layers: what pre-commit and CI run
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check $(SPARK) $(POSTGRES) $(MINILAKE) ## Checks first, because they are quick, then the tests
	$(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadgroup --no-loadscope-reorder --durations=10

# The emulator of Databricks pins what the project does not, so it has an environment of its own.
$(MINILAKE): tests/databricks/requirements.txt | $(READY)
	$(BIN)/uv venv --quiet --allow-existing --python $(PY) $(@D)
	$(BIN)/uv pip sync --quiet --python $(@D)/bin/python --require-hashes $<
	@touch $@

bench: $(READY) $(SPARK) ## Run every script that a figure of the README names
	@set -e; for path in benchmarks/[a-z]*.py; do \
	  name=$$(basename $$path .py); echo "== $$name"; $(PY) -m benchmarks.$$name; done

# Machines know the wheel by its digest: no file's date may change it, nor an earlier build's files.
wheel: $(READY) ## Build dist/lumos-*.whl: the code as rented machines and Databricks get it
	rm -rf build dist
	SOURCE_DATE_EPOCH=315532800 $(BIN)/uv build --quiet --wheel --offline --no-build-isolation \
	  --python $(PY) --out-dir dist .
	rm -rf build
	@sha256sum dist/*.whl

# The venv and Spark's JARs stay: they are set-up, and making them again needs the network.
clean: ## Remove what runs left behind
	[ ! -d $(LUMOS_HOME) ] || find $(LUMOS_HOME) -mindepth 1 -maxdepth 1 ! -name spark -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist lumos.egg-info spark-warehouse
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

lock: ## Resolve requirements.in again (network)
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --output-file requirements.txt requirements.in
