# Everything that is done here has one target; CI calls the same ones (.ci/run).

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin

# A Python 3.11 or later that can make virtual environments; PYTHON=... chooses another one.
PYTHON = $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$name; break; }; done)

.PHONY: help install up demo test check format bench plots chaos clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## Make .venv with everything that is needed

# Made anew only when pyproject.toml changes.
.venv/installed: pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or later with the venv module is needed (say which: make PYTHON=...)." >&2; \
		exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then echo "Making .venv with $$python"; "$$python" -m venv .venv; fi
	@echo "Installing the packages into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

up: install ## Start everything on this machine (ARGS="--port 8080 --data-dir DIR")
	@exec env -u MAKEFLAGS -u MFLAGS -u MAKEOVERRIDES -u MAKELEVEL -u ARGS $(BIN)/jobledger up $(ARGS)

demo: install ## Show a job's life on a throw-away server
	@$(BIN)/jobledger demo

test: install ## Run the tests (ARGS="tests/domain -k name")
	$(BIN)/pytest $(ARGS)

check: install ## Formatting, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A short pass of each, so that none can rot; for figures to rely on run one of them by itself.
BENCHMARKS := "api.py --seconds 0.1 --events 100" "jobs.py --jobs 200 --limits 0,8 --rounds 1" \
	"lone.py --jobs 10" "fires.py --due 100 --rounds 1" "logs.py --size 8 --jobs 10" \
	"streams.py --clients 20 --jobs 40" "replay.py --facts 5000" \
	"curves.py --events 10 --queued= --finished 1000 --probes 1 --probe 50" \
	"idle.py 1" "start_up.py 1" "firing.py 2000" "history.py 5000" \
	"writes.py --facts 20 --rounds 1" \
	"turns.py --trees one=.,other=. --rounds 1 history.py 2000"

bench: install ## A short pass of all benchmarks (benchmarks/); each prints a table
	@for program in $(BENCHMARKS); do \
		echo; echo "== $$program"; $(BIN)/python benchmarks/$$program || exit 1; done

# Measured once, which takes ten minutes: remove a file to have it measured anew.
PLOTTED := curves replay jobs fires

plots: $(PLOTTED:%=benchmarks/plots/%.json) ## Draw the curves that benchmarks measure, into benchmarks/plots/
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(BIN)/python benchmarks/plots.py $^

.DELETE_ON_ERROR:
benchmarks/plots/%.json: | install
	@mkdir -p $(@D)
	$(BIN)/python benchmarks/$*.py --json $@

chaos: install ## The fault suite at full length (ARGS="-k storm --seed 7 --blows 500")
	$(BIN)/pytest tests/chaos -m 'long or not long' $(ARGS)

clean: ## Remove .venv and all caches; data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
