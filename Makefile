# dfs: every task of a developer or operator. `make` lists them.
# Needs Python 3.11 or newer; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
INSTALL := $(PIP) --no-compile --constraint constraints.txt --requirement
# On all cores; pip does it on one. A few modules of others are for other versions of Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
# Tests in this many processes. Many wait for others, so one more than there are cores is quicker.
JOBS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
# The processes of a node, and those of the tests, compile a module once and not each for itself.
unexport PYTHONDONTWRITEBYTECODE
# Of the key that `make key` makes.
NAME ?= admin
SCOPES ?=
# What is measured has what a node needs, and nothing that the tests bring besides.
NODE := $(CURDIR)/build/node
BENCH := BENCH_NODE_PYTHON=$(NODE)/bin/python $(BIN)/python -m bench
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev run worker scheduler key up down format lint types arch test test-unit \
	test-contract test-crash test-integration audit check torture bench scaling soak peers damage model siege truth \
	image-check deploy-check wal-golden data-golden upgrade-check upgrade tables constraints clean

help: ## List these tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Create .venv with what a node needs
setup-dev: $(VENV)/.ready-dev ## Create .venv with what the checks and tests need, too

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dfs needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`. Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python has no working venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PIP) pip==26.3 || true  # takes half the time of the one that comes with Python 3.11

$(VENV)/.ready: requirements.txt constraints.txt | $(BIN)/python
	@echo "Installing what a node needs ..."
	@$(INSTALL) requirements.txt
	@$(COMPILE)
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements.txt constraints.txt | $(BIN)/python
	@echo "Installing what the checks need ..."
	@$(INSTALL) requirements-dev.txt
	@$(COMPILE)
	@touch $@ $(VENV)/.ready

$(NODE)/.ready: requirements.txt constraints.txt
	@echo "Installing what a node needs, to measure it ..."
	@$(PYTHON) -m venv $(NODE)
	@$(NODE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --requirement requirements.txt
	@touch $@

run: setup ## Run a node until Ctrl-C: web server, worker and, if none is configured, the queue
	@$(BIN)/python -m scripts.run

worker: setup ## Run one more worker process; needs REDIS_URL
	@$(BIN)/python -m workers.run

scheduler: setup ## Run a process that asks for the periodic jobs, in place of the workers; needs REDIS_URL
	@$(BIN)/python -m workers.scheduler

key: setup ## Make an API key and show it once: make key NAME=laptop SCOPES=read,write
	@$(BIN)/python -m scripts.keys create --name '$(NAME)' $(if $(SCOPES),--scopes '$(SCOPES)')

up: setup ## Run a node in the background; returns when it is ready
	@$(BIN)/python -m scripts.run up

down: setup ## Stop the node that `make up` started
	@$(BIN)/python -m scripts.run down

upgrade-check: setup ## Tell what a start of this version would change, and what cannot be taken back
	@$(BIN)/python -m scripts.upgrade check

upgrade: setup ## Replace the processes of a running node by those of this version, without a stop
	@$(BIN)/python -m scripts.upgrade apply

format: setup-dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

lint: setup-dev ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup-dev ## Check types, strictly
	@$(BIN)/mypy

arch: setup-dev ## Check that imports go downwards only
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache

test: setup-dev ## Run all tests
	@$(PYTEST) tests

test-unit: setup-dev ## Run the tests that start no server and kill nothing
	@$(PYTEST) -m "not integration and not crash and not slow" tests

test-contract: setup-dev ## Run the suite that every store must pass
	@$(PYTEST) tests/contract

test-crash: setup-dev ## Run the tests that kill processes
	@$(PYTEST) -m crash tests

test-integration: setup-dev ## Run the tests that start real servers
	@$(PYTEST) -m integration tests

audit: setup ## Look the dependencies up in the list of known vulnerabilities; needs the network
	@$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet \
	  --disable-pip-version-check pip-audit==2.10.1 || echo "pip-audit could not be installed."
	@$(BIN)/python -m scripts.audit_dependencies build/audit/bin/pip-audit

check: lint types arch test ## All of the above checks; changes nothing

torture: setup-dev ## Kill, starve and unplug real nodes for some minutes; needs a C compiler
	@$(BIN)/python -m torture

bench: setup-dev $(NODE)/.ready ## Measure this machine and write docs/benchmarks.md with its plots; needs wrk and nginx
	@$(BENCH)

scaling: setup-dev $(NODE)/.ready ## Measure workers, commits and node sizes, and write docs/scaling.md
	@$(BENCH) scaling

soak: setup-dev $(NODE)/.ready ## Load a whole node for ten minutes, watch its memory, and write docs/soak.md
	@$(BENCH) soak

peers: setup-dev $(NODE)/.ready ## Measure dfs beside other stores that are installed, and write docs/peers.md; 10 minutes
	@$(BENCH) peers

damage: setup-dev ## Damage every file of a node in every way and see what comes of it; half an hour
	@$(BIN)/python -m tests.damage

model: setup-dev ## Try all interleavings, crash points and power cuts, two crashes in a row; hours
	@$(BIN)/python -m tests.model

image-check: setup-dev ## Take the Dockerfile's steps without an engine, and run the node in it; root, debootstrap
	@$(BIN)/python -m deploy.check

deploy-check: setup-dev ## Hold Dockerfile, compose file, manifests and units against their own tools
	@$(PYTHON) -m venv build/deploy-check && build/deploy-check/bin/pip install --quiet \
	  --disable-pip-version-check --requirement deploy/check/requirements.txt
	@$(BIN)/python -m deploy.check.tools build/deploy-check

siege: setup-dev ## Besiege a node: slow clients, 10,000 that go away, 100,000 damaged requests; minutes
	@$(BIN)/python -m tests.hostile.siege

truth: setup-dev ## Hold a node against its OpenAPI document, with all checks of schemathesis; ten minutes
	@$(BIN)/python -m tests.hostile.openapi

wal-golden: setup-dev ## Write the golden segment of a new log format to tests/data/wal
	@$(BIN)/python -m tests.wal.golden

data-golden: setup-dev ## Write the data of a node of this version: make data-golden NAME=schema-6
	@$(BIN)/python -m tests.upgrades.golden_nodes '$(NAME)'

tables: setup ## Write the tables of settings, errors, routes and metrics into README.md and docs
	@$(BIN)/python -m scripts.doc_tables

constraints: ## Pin anew what the requirements bring with them
	@rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	@build/constraints/bin/pip install --quiet --requirement requirements-dev.txt
	@{ sed -n '/^#/p' constraints.txt; build/constraints/bin/pip freeze; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build

clean: ## Remove .venv and caches; stored files stay
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
