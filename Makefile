# Needs python3 (3.11 or later, with venv), make and git; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of Dagster's page
PORT ?= 3000
# Processes that run tests, each with servers of its own
WORKERS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help demo test oldest lint bench

help: ## What there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

demo: $(VENV)/demo.stamp ## A live shop, its changes in DuckDB, and Dagster on 127.0.0.1:3000, or PORT=3001
	@$(BIN)/cdc-assets demo --port $(PORT)

test: lint ## Everything that CI runs
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal --durations=15

# What touches every dependency: values through all of it, commands, config, Dagster's definitions
OLDEST := shaping config warehouse replication/test_values.py replication/test_server_failures.py \
	replication/test_evolved_tables.py cli/test_commands.py cli/test_reconcile.py \
	orchestration/test_assets.py

oldest: $(VENV)-oldest/dev.stamp ## Some of the tests with the oldest versions that are allowed
	$(VENV)-oldest/bin/pytest --numprocesses=$(WORKERS) --dist=worksteal \
		$(addprefix cdc_assets_tests/,$(OLDEST))

lint: $(VENV)/dev.stamp ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.stamp ## Time against the server's own decoding and pg_recvlogical
	$(BIN)/python -m cdc_assets_tests.bench

# One stamp per set of extras: installs again only when what is wanted has changed
$(VENV)/%.stamp: pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,$*)
	@touch $@

$(VENV)-oldest/%.stamp: pyproject.toml constraints-oldest.txt
	$(call install,$(VENV)-oldest,constraints-oldest.txt,$*)
	@touch $@

install = $(PYTHON) -m venv $(1) && $(1)/bin/python -m pip install --quiet \
	--disable-pip-version-check --root-user-action=ignore --constraint $(2) --editable '.[$(3)]'
