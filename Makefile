# make demo   sets up, then simulated galaxies -> votes -> shards -> cascade -> catalog -> scores, questions, pages
# make test   sets up, then the test suite, but for what `make test-nightly` has
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := .demo
# What clusters are made with too; the rest is what the index has.
PINS := deploy/constraints.txt

# Processes start without end here; each would compile what the first has compiled already.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-fast test-nightly lint docs bench clean help

help:
	@sed -n '1,2s/^# //p' Makefile
	@echo "make lint   ruff, mypy, the import rule, and checks of scripts and images"
	@echo "make docs   the documentation as a site, in .site"
	@echo "make bench  training steps compared; benchmarks/ has more, each with its command in its first lines"

setup: $(STAMP)

# Not compiled: that takes a minute, and most of the modules are never imported.
$(STAMP): pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint $(PINS) --editable '.[dev]'
	@touch $@

demo: setup
	@BIN=$(BIN) OUT=$(DEMO) sh jobs/demo.sh

# A process for each of two cores, a file of tests each at a time: a third fills the moments in which these wait
# for Ray, but begins another Ray, S3 server and so on of its own. A test's own threads would be in the way of
# the others', most of all those that spin while they wait for each other.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m 'not nightly' --durations=20

test-fast: setup
	$(PYTEST) -m 'not slow'

test-nightly: setup
	$(PYTEST) -m nightly --durations=0

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck deploy/slurm/hiwl.sbatch jobs/demo.sh .ci/run
	$(BIN)/hadolint deploy/Dockerfile.*

# As strict as it can be: a link to nowhere or a name that is none fails it.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: setup
	$(BIN)/python benchmarks/training_step.py

clean:
	rm -rf $(VENV) $(DEMO) .cache .site
