# Two commands: `make report` and `make test`. Everything they need is installed into .venv from the lock files, with hashes,
# by uv, of which the version is pinned.
PYTHON ?= python3
UV := uv==0.13.8
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A PYTHONPATH of the caller's could put other packages before the locked ones.
unexport PYTHONPATH

.PHONY: help report test lint lock
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

report: .venv/installed scm ## set up, run the pipeline, print where the report is
	@dvc repro
	@echo "Report: $(CURDIR)/reports/index.html"

test: .venv/installed-tests scm ## set up, check style and types, run the tests
	@ruff check .
	@ruff format --check .
	@mypy
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-tests ## mend style, check types
	@ruff check --fix . && ruff format . && mypy

lock: .venv/installed ## pin the newest versions that fit pyproject.toml
	@uv pip compile $(COMPILE) pyproject.toml --group build --upgrade -P torch==2.14.1 -P torchvision==0.29.1 -o requirements.lock
	@uv pip compile $(COMPILE) pyproject.toml --group build --extra test -c requirements.lock --upgrade -o tests/requirements.lock

# torch and torchvision are pinned above because their newest pair has not been tried here yet.
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

# DVC looks for Git; an unpacked archive has none.
.PHONY: scm
scm: .venv/installed
	@if [ -e .git ]; then dvc config --local --unset core.no_scm 2>/dev/null || true; else dvc config --local core.no_scm true; fi

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "wellcheck needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); name another: make report PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv; the first time this fetches about 3 GB (PyTorch) and takes a few minutes."
	@$(PYTHON) -m venv .venv || { echo "cannot make .venv: on Debian and Ubuntu, install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	@touch $@

.venv/installed: .venv/python requirements.lock pyproject.toml
	@uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-tests: .venv/installed tests/requirements.lock
	@uv pip install --quiet --compile-bytecode --python $(BIN)/python -r tests/requirements.lock
	@touch $@
