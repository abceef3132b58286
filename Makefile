# `make` lists the targets. Only Python 3.11 or later and make are needed; everything else lands in .venv.
.DEFAULT_GOAL := help
.PHONY: help env run run-servers demo-queue check quick pythons coverage test chaos fuzz bench bench-gpu lint format lock schema docs clean

# The first that fits; wheels for macOS are complete up to 3.13, so a newer one comes last.
FIND_PYTHON = for newest in 13 14; do for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$python" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$newest))" >/dev/null 2>&1 \
	&& echo "$$python" && exit; done; done

# Compiled files are kept whatever is set elsewhere: else each process compiles all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## Make .venv as requirements-dev.lock says; nothing to do takes no time.
	@python="$${PYTHON:-$$($(FIND_PYTHON))}"; test -n "$$python" || { echo "Python 3.11, 3.12, 3.13 or 3.14 is needed" \
		"and none is on PATH; install one, or name it: make run PYTHON=/path/to/python3" >&2; exit 1; }; \
		"$$python" scripts/environment.py

run: env ## Start everything, send a sample picture, stay up until Ctrl-C.
	@.venv/bin/seg-pipeline up $(ARGS)

run-servers: env ## The same on real servers of this machine, as in production: Redis, Postgres, two workers.
	@.venv/bin/seg-pipeline up --servers $(ARGS)

demo-queue: env ## Send a job through a local queue and bucket, and print the PATCH that the app server gets.
	@.venv/bin/python scripts/demo_queue.py $(ARGS)

check: env ## Check style, types and imports, and run the tests that start no process: 50 s on two free cores.
	@$(MAKE) --no-print-directory --keep-going -j 5 $(QUICK_PARTS) $(LINTERS)

quick: env ## Run the tests that start no process; ARGS="-k outbox" for some of them.
ifdef ARGS
	@$(QUICK) $(ARGS)
else
	@$(MAKE) --no-print-directory --keep-going -j $(QUICK_PARTS)
endif
QUICK = .venv/bin/python -m seg_pipeline_tests.quick -q $(NO_PROCESS) --hypothesis-profile quick
NO_PROCESS = -m "not slow and not process"

# Each part is a process that imports and collects its own folders alone. What it prints comes in one piece.
QUICK_PARTS = quick-api quick-outside quick-runs quick-rest
FOLDERS_api = api
FOLDERS_outside = adapters client store
FOLDERS_runs = defs pipeline runtime
NAMED = $(foreach part,api outside runs,$(FOLDERS_$(part)))
quick-api quick-outside quick-runs:
	@$(call IN_ONE_PIECE,$(addprefix seg_pipeline_tests/,$(FOLDERS_$(@:quick-%=%))))
quick-rest:
	@$(call IN_ONE_PIECE,$(addprefix --ignore=seg_pipeline_tests/,$(NAMED)))
IN_ONE_PIECE = said=$$(mktemp); $(QUICK) -p no:cacheprovider $(1) >$$said 2>&1; code=$$?; cat $$said; rm $$said; exit $$code

pythons: env ## Run the tests that start no process on the newest other Python of this machine; ARGS=--all for each.
	@.venv/bin/python scripts/other_pythons.py $(ARGS)

coverage: env ## Measure what the tests that start no process run of the code; fails below the floor.
	@.venv/bin/python -m pytest -q -n auto --maxprocesses 4 $(NO_PROCESS) \
		--cov --cov-report=term --cov-fail-under=$(FLOOR) $(ARGS)
FLOOR = 82

test: env ## Run every test, on all cores; ARGS="-k supervisor" for some, ARGS="-n 0" in one process.
	@.venv/bin/python -m pytest -n auto --maxprocesses 4 $(ARGS)

chaos: env ## Kill and take away everything while 300 jobs are under way, on both profiles; ARGS="--profile servers".
	@.venv/bin/python -m seg_pipeline_tests.chaos $(ARGS)

fuzz: env ## Send 3,000 hostile pictures through the whole service; ARGS="--seed 2 --write" for others, into docs/reliability.md.
	@PYTHONPATH=. .venv/bin/python scripts/fuzz.py $(ARGS)

bench: env ## Measure what the product costs, in two and a half hours; ARGS="history --write" for a part, into docs/benchmarks.md.
	@.venv/bin/python -m benchmarks $(ARGS)

bench-gpu: env ## Measure it on this machine's GPU, in eight minutes and without a network, into docs/benchmarks.md.
	@.venv/bin/python -m benchmarks.gpu $(ARGS)

lint: env ## Check style, types, who imports whom, and that what is imported is declared.
	@$(MAKE) --no-print-directory -j $(LINTERS)
LINTERS = lint-style lint-format lint-types lint-imports lint-product lint-client lint-tools

lint-style:
	@.venv/bin/ruff check .
lint-format:
	@.venv/bin/ruff format --check .
lint-types:
	@.venv/bin/mypy
lint-imports:
	@.venv/bin/lint-imports --no-logo
lint-product:
	@.venv/bin/deptry seg_pipeline api
lint-client:
	@cd client && ../.venv/bin/deptry src
lint-tools:
	@.venv/bin/deptry benchmarks docker scripts seg_pipeline_tests --ignore DEP002,DEP004

format: env ## Mend what the linter can mend.
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

lock: env ## Write both lock files from pyproject.toml; ARGS=--upgrade takes newer releases.
	@$(COMPILE) -o requirements.lock
	@cp requirements.lock requirements-dev.lock # what both have, they have in the same version
	@$(COMPILE) --group dev -o requirements-dev.lock
COMPILE = SAM2_BUILD_CUDA=0 .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-build-isolation \
	--custom-compile-command "make lock" $(ARGS)

schema: env ## Write docs/job-result.schema.json from the records that are served.
	@.venv/bin/python -m seg_pipeline.jobs.answer_schema

docs: env ## Build the documentation into site/; ARGS=serve shows it on port 8001, anew after each change.
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs $(or $(ARGS),build) --strict

clean: ## Remove the environment and caches; data/ and models/ stay.
	@rm -rf .venv site .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	@find api seg_pipeline seg_pipeline_tests -name __pycache__ -prune -exec rm -rf {} +
