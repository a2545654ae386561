# The only door: every target sets up what it needs. CI runs the same targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
READY := $(VENV)/.ready

METHOD ?= focused
OUT ?= models/merged-$(METHOD)

.PHONY: help setup plan repro eval ablations map merge score readme-results test check format base-model lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $(READY)

setup: $(READY) ## Create the environment from the lock file

plan: $(READY) ## Say what the settings will cost: tokens, FLOPs, memory, hours; refuse what cannot fit
	@python -m pipeline.tools.plan

repro: $(READY) ## Run the whole pipeline, print the results table and the path of the report
	@python -m pipeline.runtime.config
	dvc repro
	@python -m pipeline.stages.report --show

eval: $(READY) ## Run what the report needs and is not up to date; print the table
	@python -m pipeline.runtime.config
	dvc repro report
	@python -m pipeline.stages.report --show

readme-results: $(READY) ## Write the results table in README.md from reports/summary.json
	@python -m pipeline.tools.readme

ablations: $(READY) ## Run the grid of conf/ablations.yaml and print its table; ONLY="group or row", LIST=1: what would run, COMPARE="row other"
	@python -m pipeline.tools.ablations $(if $(LIST),--list) $(if $(ONLY),--only "$(ONLY)") $(if $(COMPARE),--compare $(COMPARE))

map: $(READY) ## Run the grid of conf/map.yaml: where focused learning helps, by labels, documents and shared names; ONLY, LIST=1
	@python -m pipeline.tools.ablations --map $(if $(LIST),--list) $(if $(ONLY),--only "$(ONLY)")

merge: $(READY) ## Merge the adapter of METHOD (focused) into one plain transformers model in OUT
	@python -m pipeline.tools.merge "$(METHOD)" --out "$(OUT)"

score: $(READY) ## Score anybody's PREDICTIONS against the official REFERENCES of BENCHMARK, by the official rules
	@python -m pipeline.tools.score_predictions --predictions "$(PREDICTIONS)" --references "$(REFERENCES)" --benchmark "$(BENCHMARK)"

test: $(READY) ## Run the tests
	python -m pytest

check: $(READY) ## Lint, format check and strict types on pipeline/
	ruff check .
	ruff format --check .
	mypy pipeline

format: $(READY) ## Write the format that check asks for
	ruff check --fix .
	ruff format .

base-model: $(READY) ## Train the small base model anew (under an hour on two cores)
	python models/tiny-base/recipe.py

lock: $(READY) ## Resolve pyproject.toml into requirements.lock anew
	pip install --quiet pip-tools
	pip-compile --quiet --extra dev --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-header --no-annotate --output-file requirements.lock pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+cpu$$/torch==\1/' requirements.lock

clean: ## Remove what the pipeline wrote, keep the ablation table and the map, the environment and DVC's cache
	rm -rf data models/base models/vanilla models/focused models/guided models/merged-* models/.checkpoints
	find reports -mindepth 1 -maxdepth 1 ! -name 'ablations.*' ! -name 'map.*' -exec rm -rf {} +
