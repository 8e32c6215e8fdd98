# farshore: every target sets up what it needs, with or without root.
#   make test    the checks of style, types and layers, then all tests
#   make demo    both sites on this machine, a disaster, the recovered copy checked
#   make demo-rewind  a file system overwritten with noise, and the point before it
#   make disaster-day  PostgreSQL loses its site, runs at the other, and comes home;
#                as root (ARGS=--quick: half a minute)
#   make run     both sites on this machine from config/, until Ctrl-C
#   make hunt    a million crash images of both sites' storage, and ten thousand
#                disasters of two simulated sites, seed by seed; kills, cuts, lost
#                connections and links of real daemons, many times over
#   make museum  put bugs that others met, and our own orders broken, into a copy
#                one by one: the tests must turn red for each
#   make torture kills, power cuts, bad links and clocks for twenty minutes
#   make evidence  docs/reliability.md from the figures of the last runs
#   make interop-kernel  Linux's own NBD client, in a virtual machine
#   make bench   side by side with peers (ARGS="--quick" takes six minutes)
#   make bench-wan  bytes on the wire beside other replicators, how much of a link is
#                used, what it costs hosts; as root (ARGS="--only bytes" for a part)
#   make fuzz    each parser under libFuzzer for a minute; SECONDS=600 for longer
#   make deb     a Debian package in dist/, with all that farshore needs
#   make lint    the checks alone
#   make clean   remove what the other targets made (asks nothing; keeps sources)
# PYTHON=/path/to/python3 picks an interpreter, ARGS="-k name" goes to pytest,
# the demo, make run and the benchmark.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup test lint demo demo-rewind run bench fuzz clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.farshore-installed
PYTHON ?=
ARGS ?=
SECONDS ?= 60

# Some container images set it. Each of the hundreds of daemons that tests start would
# compile farshore anew: 0.2 s of each start.
unexport PYTHONDONTWRITEBYTECODE

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

# The stamp is newer than the lock when everything in it is installed. An
# environment that another interpreter left half made is made again.
$(STAMP): requirements-dev.lock pyproject.toml
	@if ! $(BIN)/python -c 'import pip' >/dev/null 2>&1; then \
	  found=''; \
	  for name in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	        >/dev/null 2>&1; then found="$$name"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'farshore needs Python 3.11 or newer, and found none$(if $(PYTHON), at $(PYTHON)).' >&2; \
	    echo 'Install one (Debian 12: apt-get install python3 python3-venv) or say' >&2; \
	    echo 'where it is: make PYTHON=/path/to/python3 ...' >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$found cannot make virtual environments: its package is missing." >&2; \
	    echo "Install it: apt-get install python$$version-venv (or python3-venv)" >&2; \
	    exit 1; \
	  fi; \
	  rm -rf $(VENV); \
	  "$$found" -m venv $(VENV); \
	fi
	@echo 'Installing the locked dependencies into $(VENV) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation -e .
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The first ones use every core by themselves; of the rest many wait for processes, so
# that three at a time keep two cores busy. Files in their own order: the long ones
# come first, so that nobody waits for one at the end.
BUSY := tests/crash tests/faults tests/simulation

test: lint
ifeq ($(ARGS),)
	$(BIN)/pytest -m 'every_core and not hunt' $(BUSY)
	$(BIN)/pytest -m 'not every_core and not hunt' \
	  --numprocesses=3 --dist=loadfile --no-loadscope-reorder
else
	$(BIN)/pytest $(ARGS)
endif

# Before a release: it boots QEMU and takes minutes.
.PHONY: interop-kernel
interop-kernel: $(STAMP)
	$(BIN)/pytest tests/interop/kernel_client.py $(ARGS)

# Before a release: 10,000 seeds take about a quarter of an hour of one core.
.PHONY: hunt
hunt: $(STAMP)
	$(BIN)/python -m tests.crash.hunt --images 1000000
	$(BIN)/python -m tests.simulation.hunt --seeds 10000 $(ARGS)
	FARSHORE_KILL_ROUNDS=25 FARSHORE_ORACLE_CUTS=200 FARSHORE_GHOST_ROUNDS=200 \
	  FARSHORE_LOSSES=100 FARSHORE_STOP_SECONDS=30 \
	  $(BIN)/pytest -m '' --timeout=1800 $(addprefix tests/integration/test_,kill.py \
	  cut_oracle.py ghost_writes.py resume.py)
	$(BIN)/pytest -m hunt tests
	$(BIN)/pytest --hypothesis-profile=search --numprocesses=2 \
	  $$(grep -rl '@given' tests/unit)

# Every exhibit in a copy of the tree, two at a time: about ten minutes.
.PHONY: museum
museum: $(STAMP)
	@$(BIN)/python -m tests.museum.run $(ARGS)

# Before a release, as root: ARGS="--minutes 240", ARGS="--only links".
.PHONY: torture
torture: $(STAMP)
	@$(BIN)/python -m tests.torture $(ARGS)

# Gathers what runs left in build/evidence; see docs/reliability.md for which.
.PHONY: evidence
evidence: $(STAMP)
	@$(BIN)/python -m tests.evidence $(ARGS)

demo: $(STAMP)
	@$(BIN)/python -m demo $(ARGS)

demo-rewind: $(STAMP)
	@$(BIN)/python -m demo.rewind $(ARGS)

# Mounts, so as root; needs PostgreSQL, nbdfuse and e2fsprogs.
.PHONY: disaster-day
disaster-day: $(STAMP)
	@$(BIN)/python -m demo.disaster_day $(ARGS)

run: $(STAMP)
	@$(BIN)/python -m demo.both_sites $(ARGS)

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(ARGS)

# Needs root: it mounts. ARGS="--only bytes -- --steps 2": a part, with its options.
.PHONY: bench-wan
bench-wan: $(STAMP)
	$(BIN)/python benchmarks/wan_run.py $(ARGS)

fuzz: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes -r tests/fuzz/requirements.lock
	@$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS)

.PHONY: deb
deb: $(STAMP)
	@$(BIN)/python -m release.deb $(ARGS)

clean:
	rm -rf $(VENV) run dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
