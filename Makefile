# `make repro` runs the workflow, `make test` runs the tests. Both create the environment first.

PYTHON ?= python3
VENV := .venv
PORT ?= 5000
# Two processes; the tests of a file run together and in order; the longest files run first.
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# DVC asks for the name of the user, who may have none in a container.
export LOGNAME ?= $(shell id -un 2>/dev/null || echo unknown)
# The scripts of an environment name its path: one that was moved or copied with the project is made again. Without
# .place it is of an older Makefile or of the user, and pip says where it was made, in its first or second line. A link
# to another environment is the user's.
STALE := $(shell [ -L $(VENV) ] || { [ ! -e $(VENV)/.place ] && [ ! -e $(VENV)/bin/pip ]; } || { \
	if [ -e $(VENV)/.place ]; then [ "$$(cat $(VENV)/.place)" = "$$(pwd -P)" ]; \
	else made="$$(sed -n '1,2s:^[^/]*\(/.*\)/python.*:\1:p' $(VENV)/bin/pip)"; \
		[ -z "$$made" ] || [ "$$made" -ef $(VENV)/bin ]; fi && \
	[ -x $(VENV)/bin/python ]; } || echo stale)

.NOTPARALLEL:
.PHONY: stale git help repro promote rollback restore compare ui test test-all lint bench results recipes segmenter ship setup lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Only an argument of make: a variable DATA of the shell may mean something else.
ifeq ($(origin DATA),command line)
REPRO = @pneumonia repro "$$DATA"
else
REPRO := dvc repro
endif

repro: setup  ## run the stages that have changed, then show the champion; on own images: make repro DATA=/my/xrays
	$(REPRO)
	@pneumonia register --if-missing
	@pneumonia report

promote: setup  ## register the model again, in an empty or another MLflow store
	@pneumonia register

rollback: setup  ## make the previous champion champion again; the present one is withdrawn
	@pneumonia rollback

restore: setup  ## restore the model, data, code and settings of a version: make restore VERSION=3 (or champion)
	@pneumonia restore "$(VERSION)"

compare: setup  ## compare two models: make compare A=champion B=2 (version, run id or DVC experiment)
	@pneumonia compare "$(A)" "$(B)"

ui: setup  ## open the MLflow UI on http://127.0.0.1:5000 (make ui PORT=5001)
	@pneumonia ui --port $(PORT)

test: $(VENV)/.complete  ## run what CI runs, about 12 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.complete  ## run all tests, also the slow ones
	$(PYTEST) --hypothesis-profile=thorough

lint: $(VENV)/.complete  ## check style, types, layers and the documentation, which is built in site/
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

bench: setup  ## measure the figures that the documents state
	python -m benchmarks.bench

recipes: setup  ## compare recipes on real images taken like the other class, in docs/recipes.csv (hours)
	python -m benchmarks.recipes $(RECIPES)

segmenter: setup  ## train the network that finds lungs, on human masks (minutes to an hour)
	python -m benchmarks.segmenter $(SEGMENTER)

ship: setup  ## add the network of a finished run to the package: make ship SHIP="--run FOLDER --name mobilenet --half"
	python -m benchmarks.ship $(SHIP)

results: setup  ## train the published models on real data, in docs/results.csv (hours; continues after a stop)
	python -m benchmarks.results $(RESULTS)

setup: git $(VENV)/.complete  ## create only the environment, from requirements.lock

git:
	@command -v git >/dev/null || { echo "git is not installed, and DVC needs it: install it, then run make again"; exit 1; }
	@[ -e .git ] || { echo "This folder is not a git repository, and DVC needs one. Make it one, then run make again:"; \
		echo '  git init && git add -A && git commit -m "Start"'; exit 1; }
	@git rev-parse --verify --quiet HEAD >/dev/null || { echo "git has no commit here, and DVC needs one. Make it, then run make again:"; \
		echo '  git add -A && git commit -m "Start"'; exit 1; }

$(VENV)/.complete: requirements.lock pyproject.toml $(STALE)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Python {v[0]}.{v[1]} found, 3.11 to 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(STALE:stale=--clear) $(VENV)
	@[ -L $(VENV) ] || pwd -P > $(VENV)/.place
	python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

LOCK := uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url
lock:  ## resolve requirements.lock and requirements-serve.lock again from pyproject.toml (needs uv)
	$(LOCK) --extra dev pyproject.toml -o requirements.lock
	$(LOCK) --group serve --constraints requirements.lock -o requirements-serve.lock

clean:  ## remove the environment; data, models and runs stay
	rm -rf $(VENV)
