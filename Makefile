# On a fresh machine each target makes its own environment first: python3 with venv is all that must be there.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
REPORT ?= demo-report
SITE   ?= site
# The suite runs in two processes of one thread each, so that two cores are full and never crowded.
WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: demo test lint docs clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/prunus demo --out $(REPORT)
	@echo "The page: $(CURDIR)/$(REPORT)/index.html"

test: $(STAMP)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The gallery shows the demo's page that is there, and has one made where there is none.
docs: $(VENV)/.docs $(REPORT)/index.html
	$(BIN)/python docs/site/build.py --out $(SITE) --demo $(REPORT)/index.html
	@echo "The site: $(CURDIR)/$(SITE)/index.html"

$(REPORT)/index.html: | $(STAMP)
	$(BIN)/prunus demo --out $(REPORT)

clean:
	rm -rf $(VENV) $(REPORT) $(SITE) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Prunus needs Python 3.10 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@
