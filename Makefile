# The only door: every target sets up what it needs. CI runs the same targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
export PATH := $(abspath $(VENV))/bin:$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
READY := $(VENV)/.ready
PIP := pip install --quiet --disable-pip-version-check

GRID = $(if $(LIST),--list) $(if $(KEEP),--keep) $(if $(JOBS),--jobs "$(JOBS)") $(if $(ONLY),--only "$(ONLY)")

.PHONY: help setup example plan repro eval ask ablations map laptop merge score export push lm-eval readme-results test fuzz check format base-model lock clean

##@ Start

help: ## Show this list
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nBegin with `make repro`. docs/quickstart.md explains it.\n'

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@# uv installs some four times faster than pip, which is left for torch: it finds the build that this machine offers.
	$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$$(grep ^torch== requirements.lock)"
	$(PIP) --no-deps "$$(grep ^uv== requirements.lock)"
	uv pip install --quiet --python $(VENV) --requirement requirements.lock || $(PIP) --requirement requirements.lock
	@touch $(READY)

setup: $(READY) ## Create the environment in .venv from the lock file; TORCH_INDEX=<index of torch>
	@echo 'setup: the environment is in $(VENV); next: make plan, or make repro'

example: $(READY) ## Train a small real model on examples/own in a copy, show its answers before and after; METHOD
	@python -m pipeline.tools.example $(if $(METHOD),--method "$(METHOD)")

plan: $(READY) ## Say what the settings cost: tokens, FLOPs, memory, hours; refuse what cannot fit
	@python -m pipeline.tools.plan

##@ Run

repro: $(READY) ## Run the whole pipeline, print the table of results and the path of the page
	@python -m pipeline.runtime.config
	dvc repro
	@python -m pipeline.stages.report --show

eval: $(READY) ## Run only what the report needs, print the table
	@python -m pipeline.runtime.config
	dvc repro report
	@python -m pipeline.stages.report --show

ask: override export QUESTION := $(value QUESTION)
ask: override export DOCUMENTS := $(value DOCUMENTS)
ask: $(READY) ## Ask a QUESTION over DOCUMENTS (a folder of text, Markdown or PDF) with METHOD="base vanilla"
	@python -m pipeline.tools.ask "$$QUESTION" --documents "$$DOCUMENTS" $(if $(METHOD),--methods $(METHOD)) \
	  $(if $(MOST),--most "$(MOST)") $(if $(PROJECT),--project "$(PROJECT)")

##@ Measure

ablations: $(READY) ## Run the grid of conf/ablations.yaml; LIST=1, ONLY="a row", JOBS=2, KEEP=1, COMPARE="row other"
	@python -m pipeline.tools.ablations $(GRID) $(if $(COMPARE),--compare $(COMPARE))

map: $(READY) ## Run the grid of conf/map.yaml: where focused learning helps; LIST, ONLY, JOBS, KEEP
	@python -m pipeline.tools.ablations --grid map $(GRID)

laptop: $(READY) ## Run the grid of conf/laptop.yaml: a real model, real questions; LIST, ONLY, JOBS, KEEP
	@python -m pipeline.tools.ablations --grid laptop $(GRID)

score: $(READY) ## Score any PREDICTIONS file against the REFERENCES of BENCHMARK by the official rules
	@python -m pipeline.tools.score_predictions --predictions "$(PREDICTIONS)" --references "$(REFERENCES)" --benchmark "$(BENCHMARK)"

##@ Share

merge push lm-eval: METHOD ?= focused
merge: OUT ?= models/merged-$(METHOD)
merge: $(READY) ## Merge the adapter of METHOD (focused) into one plain transformers model in OUT
	@python -m pipeline.tools.merge "$(METHOD)" --out "$(OUT)"

export: $(READY) ## Write prompts and completions as JSONL in OUT (exports/all); SPLIT=train; METHOD=guided
	@python -m pipeline.tools.export --out "$(or $(OUT),exports/$(or $(SPLIT),all))" $(if $(SPLIT),--split "$(SPLIT)") $(if $(filter guided,$(METHOD)),--method guided)

push: $(READY) ## Upload the adapter of METHOD, or MODEL=its merged folder, to REPO=owner/name; PUBLIC=1
	@python -m pipeline.tools.push "$(METHOD)" --repo "$(REPO)" $(if $(MODEL),--merged "$(MODEL)") $(if $(PUBLIC),--public)

lm-eval: $(READY) ## Score METHOD, or MODEL=its merged folder, in lm-evaluation-harness; LIMIT=64
	@python -c 'import lm_eval' 2>/dev/null || uv pip install --quiet --python $(VENV) --constraint requirements.lock lm_eval
	@python -m pipeline.tools.export --out exports/lm-eval
	@python examples/lm_eval/run.py "$(METHOD)" $(if $(MODEL),--merged "$(MODEL)") $(if $(LIMIT),--limit "$(LIMIT)")

readme-results: $(READY) ## Write results and settings into README.md and docs/
	@python -m pipeline.tools.readme

##@ Develop

test: WORKERS ?= 2
test: $(READY) ## Run the tests, two at a time; WORKERS=1 runs one after the other
	OMP_NUM_THREADS=1 python -m pytest --numprocesses $(WORKERS) --dist loadfile

fuzz: $(READY) ## Give 100,000 damaged files to the readers of foreign ones; FUZZ=1000, FUZZ_ONLY="archives 12"
	FUZZ=$(or $(FUZZ),10000) python -m pytest tests/fuzz

check: $(READY) ## Lint, check the format, check the types of pipeline/
	ruff check .
	ruff format --check .
	mypy pipeline

format: $(READY) ## Write the format that check asks for
	ruff check --fix .
	ruff format .

base-model: $(READY) ## Train the small base model anew (under an hour on two cores)
	python models/tiny-base/recipe.py

lock: $(READY) ## Resolve pyproject.toml into requirements.lock anew
	uv pip compile --quiet --upgrade --extra dev --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --python-version 3.11 --output-file requirements.lock pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+cpu$$/torch==\1/' requirements.lock

clean: ## Remove what the pipeline wrote; keep grids, environment and DVC's cache
	rm -rf data exports models/base models/vanilla models/focused models/guided models/merged-* models/.checkpoints
	find reports -mindepth 1 -maxdepth 1 ! -name 'ablations.*' ! -name 'map.*' ! -name 'laptop.*' ! -name runs -exec rm -rf {} +
