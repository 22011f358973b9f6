# Fleming's front door. `make` alone explains itself.
#   PROFILE=cpu|gpu  what to install (default cpu)      PYTHON=python3.11  which Python to start from
#   VENV=.venv       where                              RUN=NAME           name of the demo's run
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PROFILE ?= cpu
VENV ?= .venv
RUN ?= quickstart-$(shell date +%Y%m%d-%H%M%S)
REQUIREMENTS := requirements/install.sh requirements/$(PROFILE).txt requirements/models.txt pyproject.toml
SETUP := $(VENV)/.installed-$(PROFILE)
SETUP_DEV := $(VENV)/.installed-$(PROFILE)-dev

export VENV
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
export OMP_NUM_THREADS ?= 1
# Nothing here needs a model hub or reports home.
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: help setup setup-dev doctor demo test lint unit integration bench soak image metrics tree clean

help: ## this list
	@echo "Fleming trains medical reasoning models by reinforcement learning. Start with:"
	@echo
	@echo "  make demo    set everything up and run real RL on this CPU"
	@echo "  make test    set everything up and run every check"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "PROFILE=gpu installs the CUDA builds. After the set-up: $(VENV)/bin/fleming --help"

setup: $(SETUP) ## the environment in .venv, from exact pins

setup-dev: $(SETUP_DEV) ## the same, with the tools of the checks

$(SETUP): $(REQUIREMENTS)
	@echo "Setting up ($(PROFILE) profile, the first time takes minutes) ..."
	@requirements/install.sh $(PROFILE)

$(SETUP_DEV): $(REQUIREMENTS) requirements/dev.txt requirements/graph.txt
	@echo "Setting up ($(PROFILE) profile and checks, the first time takes minutes) ..."
	@requirements/install.sh $(PROFILE) dev

doctor: setup ## say what this machine lacks, and how to mend it
	@fleming doctor

demo: setup ## set up, then the quickstart: RL from chance to knowledge in minutes
	@fleming run recipes/quickstart.yaml --set run.name=$(RUN)

test: setup-dev lint ## set up, then every check: lint, types, floors, unit and integration tests
	@pytest -m "not soak"

lint: setup-dev ## ruff, mypy, the floors of the rooms, shell scripts, Dockerfile
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-logo
	@shellcheck requirements/install.sh .ci/run cluster/deploy/slurm.sh
	@hadolint Dockerfile

unit: setup-dev ## the fast tests alone
	@pytest -m "not integration and not soak"

integration: setup-dev ## the tests that start Ray, vLLM and DeepSpeed
	@pytest -m "integration and not soak"

bench: setup-dev ## measure; figures go to bench/
	@shopt -s nullglob; for script in bench/*.py; do echo "== $$script"; python "$$script"; done

soak: setup-dev ## long real runs, not in CI
	@pytest -m soak

image: ## the image (needs Docker): CPU with the code, or PROFILE=gpu with dependencies only, for clusters
ifeq ($(PROFILE),gpu)
	docker build --target dependencies --build-arg PROFILE=gpu --tag fleming-gpu:0.1.0 .
else
	docker build --tag fleming:cpu .
endif

metrics: setup-dev ## write docs/metrics.md, the dashboard and the alerts from the table of metrics
	@python -m cluster.monitoring.generate

tree: setup-dev ## write the README's tree from the first sentence of every module
	@python docs/tree.py

clean: ## remove the environment and what the tools left
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
