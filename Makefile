# The two commands: `make quickstart [WORLD=motion|tones]` and `make test`.
# Each creates the environment .venv first, once, and again when pyproject.toml changes.
# Another Python: make PYTHON=python3.12. An environment elsewhere: make VENV=/path. Options for pytest or the run: make test ARGS="-k pairing".

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORLD ?= shapes
WORLDS := shapes $(patsubst configs/quickstart_%.yaml,%,$(sort $(wildcard configs/quickstart_*.yaml)))
NEEDED_GB := 7

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread each: on busy cores two threads are several times slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Before an install of minutes, not after it.
$(if $(filter 1,$(words $(filter $(WORLD),$(WORLDS)))),,$(error unknown WORLD=$(WORLD); choose one of: $(WORLDS)))

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-long test-gpu bench lint readme clean

help:
	@echo 'make quickstart   generate, score, pair, encode, train, evaluate and show, on a CPU, in minutes'
	@echo '                  the same on videos: WORLD=motion; on sounds: WORLD=tones'
	@echo 'make test         the test suite (about 20 minutes on 2 cores)'
	@echo 'make test-long    kill series and large counts'
	@echo 'make test-gpu     tests that need CUDA'
	@echo 'make bench        measurements'
	@echo 'make lint         ruff and pyright'
	@echo 'make readme       the table of objectives in the README, anew'
	@echo 'make install      the environment alone, in $(VENV)'
	@echo 'make clean        remove the environment, caches and built packages; runs/ stays'

install: $(STAMP)

quickstart: $(STAMP)
	$(BIN)/diffalign run configs/quickstart$(if $(filter-out shapes,$(WORLD)),_$(WORLD)).yaml $(ARGS)

test: $(STAMP)
	$(PYTEST) -n 2 $(ARGS)

test-long: $(STAMP)
	$(PYTEST) -m long --timeout 3600 $(ARGS)

test-gpu: $(STAMP)
	$(PYTEST) -m gpu $(ARGS)

bench: $(STAMP)
	$(PYTEST) -m bench -s --timeout 3600 $(ARGS)
	$(BIN)/diffalign bench step
	$(BIN)/diffalign bench step lora=true
	$(BIN)/diffalign bench encode
	$(BIN)/diffalign bench objectives

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pyright

# The table of objectives in the README is what `diffalign methods --markdown` says.
readme: $(STAMP)
	$(BIN)/diffalign methods --markdown > .methods.md
	awk '/^\| name \| rows \|/ { while ((getline line < ".methods.md") > 0) print line; old = 1 } !/^\|/ { old = 0 } !old' README.md > .readme.md
	mv .readme.md README.md && rm .methods.md

clean:
	rm -rf $(VENV) .venv-oldest build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'No $(PYTHON) here. Install Python 3.10 to 3.13 (Debian: apt install python3 python3-venv), or name yours: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "diffalign needs Python 3.10 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo 'This Python cannot create environments. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); \
	if [ ! -x $(BIN)/python ] && [ "$$free" -lt $(NEEDED_GB) ]; then \
	    echo "The environment needs $(NEEDED_GB) GB of disk (PyTorch with CUDA is most of it); $$free GB are free here. Free some, or put it elsewhere: make VENV=/path"; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV) (once; under a minute with uv, a few minutes with pip) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo 'uv cannot be had here; pip does it, more slowly.'
	@if $(BIN)/python -m uv --version >/dev/null 2>&1 && $(BIN)/python -m uv pip install --python $(BIN)/python --editable '.[dev]'; then :; \
	else echo 'Going on with pip (a few minutes) ...'; $(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'; fi
	@touch $(STAMP)
