# Tilth: `make demo` shows the whole way of one datum; `make test` passes the tests. Needs Python >= 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# On Linux the default wheel of torch brings CUDA; for a CPU-only machine give pip its index, e.g.
# PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu".
PIP_EXTRA ?=
ONCE ?=
DATA ?=
TEST ?=
NAME ?=
SEED ?=
RUNS ?=
KINDS ?=
FULL ?=
GATED ?=
# The fast gate reads settings but needs no server.
GATE := TILTH_SECRET_KEY=gate DATABASE_URL=postgresql://tilth_app@/tilth DATABASE_URL_OWNER=postgresql://tilth_owner@/tilth \
        DATABASE_URL_SYSTEM=postgresql://tilth_system@/tilth DJANGO_SETTINGS_MODULE=tilth.settings.test
SHORT := $(if $(FULL),, and not data and not long)
FAST := not ray and not browser and not slow and not stack and not data
# GATED=1: the fast gate has just passed here, so its tests are left out.
LEFT := $(if $(GATED), and not ($(FAST)))

.PHONY: demo up test check lint types migrations fast-rest fast-control test-control test-rest test-stack bench campaign clean format
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tilth needs Python >= 3.11, found " + sys.version)'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt -e '.[demo,test]'
	touch $@

demo: $(STAMP)
	@$(BIN)/python -m tilth.local demo $(if $(ONCE),--once) $(if $(DATA),--data '$(DATA)') $(if $(TEST),--test '$(TEST)')

up: $(STAMP)
	@$(BIN)/python -m tilth.local up

# The gate's parts run two at a time, each with its output in one piece.
check: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target fast-control fast-rest types lint migrations

lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

types: $(STAMP)
	@$(GATE) $(BIN)/mypy --no-error-summary platform/tilth inference verticals tests

migrations: $(STAMP)
	@$(GATE) $(BIN)/python -W ignore manage.py makemigrations --check --dry-run > /dev/null 2>&1 || \
	  $(GATE) $(BIN)/python -W ignore manage.py makemigrations --check --dry-run

# Two halves at a time; each brings its own PostgreSQL.
fast-control: $(STAMP)
	@$(BIN)/python -m pytest -q -m "$(FAST)" tests/controlplane

fast-rest: $(STAMP)
	@$(BIN)/python -m pytest -q -m "$(FAST)" --ignore=tests/controlplane

# Two halves at a time, then what kills parts of the product: a busy machine does not answer in time.
# FULL=1: with the public data, and ten minutes of kills by a new seed.
test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-control test-rest
	@$(MAKE) --no-print-directory test-stack
	$(if $(FULL),@$(BIN)/python -m tests.campaign --runs 1000 --minutes 10)

test-control: $(STAMP)
	@$(BIN)/python -m pytest -q --durations=15 -m "not stack$(LEFT)" tests/controlplane

test-rest: $(STAMP)
	@$(BIN)/python -m pytest -q --durations=15 -m "not stack$(SHORT)$(LEFT)" --ignore=tests/controlplane

test-stack: $(STAMP)
	@$(BIN)/python -m pytest -q --durations=15 -m "stack$(SHORT)" --ignore=tests/controlplane

# Seeded kills of every part under load; a seed replays. KINDS="trainer,network cut" restricts them.
campaign: $(STAMP)
	@$(BIN)/python -m tests.campaign $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(if $(KINDS),--kinds '$(KINDS)')

bench: $(STAMP)
	$(BIN)/python tests/bench $(if $(NAME),--name '$(NAME)') $(if $(FULL),--full)

format: $(STAMP)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# What PostgreSQL or Ray could not keep below var (paths too long, or closed to PostgreSQL's user) lies beside it.
clean:
	@test ! -x $(BIN)/python || $(BIN)/python -m tilth.local clean
	rm -rf var .pytest_cache .mypy_cache .ruff_cache .hypothesis
