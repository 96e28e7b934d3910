# make demo | test | faults | bench | schema | lint | clean | help; each creates the environment that it needs.
#
#   VENV=.venv               where that environment is
#   PYTHON=python3.12        the Python to create it with: 3.11 or newer
#   DJANGO='django~=5.2.0'   a pip requirement; the default is the newest version
#   WORKERS=1                processes that run the tests; the default is one per processor
#   PYTEST_ARGS='-k rest'    passed to pytest; coverage is measured only without it, by the whole suite
#   FAULTS_ARGS='--seed 7'   passed to each campaign of faults
#   BENCH_ARGS='--quick'     passed to the benchmark

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test faults bench schema lint install clean help FORCE

# Run it to find out: a version manager leaves commands on the path that only fail.
IS_USABLE := 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
ifndef PYTHON
PYTHON := $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if $$python -c $(IS_USABLE) >/dev/null 2>&1; then echo $$python; break; fi; done)
endif
VENV ?= .venv
WORKERS ?= auto
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

PYTEST := -m pytest --numprocesses $(WORKERS) --dist worksteal

# In the environment, so that two suites at the same time do not mix their measurements.
export COVERAGE_FILE := $(VENV)/.coverage

demo: $(VENV)/.installed-demo  ## Try it: a site, a sandbox OSVI, two dozen chats; needs no account
	@$(BIN)/python -m example_project.demo

test: $(VENV)/.installed-dev  ## Run the test suite; it must cover every line and branch
ifeq ($(strip $(PYTEST_ARGS)),)
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run $(PYTEST)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report
else
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)
	@echo "Coverage was not measured: it needs the whole suite, which runs without PYTEST_ARGS."
endif

faults: $(addprefix $(VENV)/.installed-,dev postgresql mariadb)  ## Close sessions during faults; takes minutes
	$(BIN)/python -m chaos.campaign --closes 1000 --kills 120 --outages 12 $(FAULTS_ARGS)
	$(BIN)/python -m chaos.campaign --database mariadb --kills 30 $(FAULTS_ARGS)
	$(BIN)/python -m chaos.campaign --database sqlite --kills 30 $(FAULTS_ARGS)

bench: $(addprefix $(VENV)/.installed-,dev postgresql)  ## Measure a bulk close and write docs/benchmarks.md
	$(BIN)/python -m benchmarks.bulk --write $(BENCH_ARGS)

schema: $(VENV)/.installed-dev  ## Write docs/openapi.yaml, the description of the REST API
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml

lint: $(VENV)/.installed-lint  ## Check the code with ruff, mypy and import-linter
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed-dev $(VENV)/.installed-lint  ## Create the environment for test and lint

clean:  ## Remove what the demo, the tests and builds have created, except environments
	rm -rf .demo build dist osvi_django.egg-info htmlcov .hypothesis
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -f .coverage .coverage.* $(COVERAGE_FILE) $(COVERAGE_FILE).*
	find benchmarks chaos example_project osvi_django tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## Show the targets
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1	/p' Makefile
	@echo "The first lines of the Makefile explain VENV, PYTHON, DJANGO and the other variables."

$(BIN)/python:
	@$(or $(PYTHON),false) -c $(IS_USABLE) || { \
		echo "Python 3.11 or newer, with venv and pip, is needed: make PYTHON=/path/to/python3"; \
		exit 1; }
	@echo "Creating the environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# A stamp for each set of requirements: they are installed again only if these files changed.
$(VENV)/.installed-%: setup.cfg pyproject.toml $(VENV)/.django | $(BIN)/python
	@echo "Installing what '$*' needs into $(VENV), which may take a minute ..."
	@$(PIP_INSTALL) --editable '.[$*]' $(if $(DJANGO),'$(DJANGO)')
	@touch $@

# It changes only if DJANGO differs from the last time.
$(VENV)/.django: FORCE | $(BIN)/python
	@test -f $@ && test "$$(cat $@)" = '$(DJANGO)' || echo '$(DJANGO)' > $@
