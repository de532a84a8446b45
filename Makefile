# Two commands do it all: `make repro` runs the workflow, `make test` checks it. Both set up what they need.

PYTHON ?= python3
VENV := .venv
PORT ?= 5000
# Two processes; the tests of a file stay together and in their order, the longest files come first.
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help repro promote rollback restore compare ui test test-all lint bench results recipes setup lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: setup  ## run the stages that have changed (dvc repro), then say which model is champion
	dvc repro
	@pneumonia register --if-missing

promote: setup  ## register the model again, into an empty or another MLflow store
	@pneumonia register

rollback: setup  ## make the previous champion champion again; the present one does not come back by itself
	@pneumonia rollback

restore: setup  ## restore the model, data, code and settings of a version: make restore VERSION=3 (or champion)
	@pneumonia restore "$(VERSION)"

compare: setup  ## two models side by side: make compare A=champion B=2 (version, run id or DVC experiment)
	@pneumonia compare "$(A)" "$(B)"

ui: setup  ## open the MLflow UI on http://127.0.0.1:5000 (make ui PORT=5001)
	@pneumonia ui --port $(PORT)

test: setup  ## what CI runs, 5 to 10 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-all: setup  ## every test, the slow ones too
	$(PYTEST)

lint: setup  ## style, types, layers
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: setup  ## the figures of the README, measured here
	python -m benchmarks.bench

recipes: setup  ## compare recipes on images that were taken unlike their class, in docs/recipes.csv (real data, hours)
	python -m benchmarks.recipes $(RECIPES)

results: setup  ## train the published models on real data, one line each in docs/results.csv (hours; goes on where it stopped)
	python -m benchmarks.results $(RESULTS)

setup: $(VENV)/.complete  ## only the environment, from requirements.lock

$(VENV)/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Python {v[0]}.{v[1]} found, 3.11 to 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## resolve requirements.lock again from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
		--extra dev --no-header --no-emit-index-url pyproject.toml -o requirements.lock

clean:  ## remove the environment; data, models and runs stay
	rm -rf $(VENV)
