# Everything a checkout needs, in targets that build on each other: `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Every check starts hundreds of processes: each compiles our own modules anew where their bytecode may not be kept.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
RUN := $(VENV)/bin
BIN := .cache/bin
# The newest Python that can run gpuwright; `make setup PYTHON=/path/to/python` decides otherwise.
PYTHON ?= $(firstword $(foreach python,python3.14 python3.13 python3.12 python3.11 python3 python,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(python))))
LOCK := $(RUN)/uv pip compile pyproject.toml --universal --generate-hashes --quiet --no-emit-index-url \
	--custom-compile-command 'make lock'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.project ## make .venv with the gpuwright command in it

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found; install it, or name one: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) has no working venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.requirements: requirements.txt $(VENV)/.created
	@echo "==> installing what gpuwright runs on"
	@$(RUN)/python -m pip install --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.requirements
	@echo "==> installing gpuwright itself, editable"
	@$(RUN)/python -m pip install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.project
	@echo "==> installing what checks and tests need"
	@$(RUN)/python -m pip install --require-hashes -r requirements-dev.txt
	@touch $@

.PHONY: tools
tools: $(BIN)/vcsim $(BIN)/govc $(BIN)/decodeevents temporal ## build vcsim and govc, obtain a Temporal server

$(BIN)/%: deploy/tools/go.mod deploy/tools/go.sum $(wildcard deploy/tools/cmd/*/*.go)
	@command -v go >/dev/null || { echo "Go 1.25 or newer is needed to build $*, a witness that the tests use; install it from https://go.dev/dl" >&2; exit 1; }
	@echo "==> building $* (a minute or two the first time)"
	@mkdir -p $(BIN)
	@cd deploy/tools && GOWORK=off go build -mod=readonly -trimpath -v -o ../../$@ ./cmd/$*

.PHONY: temporal
temporal: setup
	@$(RUN)/python -m workers.temporal_binary

.PHONY: demo
demo: setup ## run the main job against a simulated vCenter; KEEP=1 stays up
	@$(RUN)/gpuwright demo $(if $(KEEP),--keep)

.PHONY: test
test: lint tools ## every check: format, lint, types, layers, tests
	@echo "==> tests"
	@$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## format, lint, types and layers, without the tests
	@echo "==> format"
	@$(RUN)/ruff format --check .
	@echo "==> lint"
	@$(RUN)/ruff check .
	@echo "==> types"
	@$(RUN)/mypy
	@echo "==> layers"
	@$(RUN)/lint-imports

.PHONY: format
format: $(VENV)/.dev ## rewrite the code in the project's format
	@$(RUN)/ruff check --fix --exit-zero --quiet .
	@$(RUN)/ruff format .

.PHONY: bench
bench: $(VENV)/.dev tools ## measure, and print ratios
	@$(RUN)/python -m benchmarks.decoding
	@$(RUN)/python -m benchmarks.backlog
	@$(RUN)/python -m benchmarks.sustained
	@$(RUN)/python -m benchmarks.event_latency
	@$(RUN)/python -m benchmarks.sandbox
	@$(RUN)/python -m benchmarks.idle
	@$(RUN)/python -m benchmarks.preparation
	@$(RUN)/python -m benchmarks.fleet

.PHONY: lock
lock: $(VENV)/.dev ## pin the newest allowed dependencies in requirements*.txt
	@$(LOCK) --upgrade --group build --output-file requirements.txt
	@$(LOCK) --upgrade --group build --group dev --constraint requirements.txt --output-file requirements-dev.txt

.PHONY: clean
clean: ## remove everything that make has made
	rm -rf $(VENV) .cache .demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
