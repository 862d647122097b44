# make demo    sets up and grounds the example screenshots with the shipped model
# make test    sets up and passes the tests
# make serve   sets up and starts the server on 127.0.0.1:8000
# make check   format, lint, types, tests, docs
# make soak    for longer: random bad images (SOAK_EXAMPLES), generated requests
#              (PUBLISHED_EXAMPLES) and chaos (CHAOS_REQUESTS)
#
# Where there is no NVIDIA GPU, PyTorch's CPU index saves gigabytes: set PIP_EXTRA_INDEX_URL to it.

PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
RUFF_PATHS := src tests examples scripts training benchmarks

.PHONY: demo serve test soak check format lint types docs docs-check system-packages clean

demo: $(VENV)/.run
	$(BIN)/python examples/demo.py

serve: $(VENV)/.run
	$(BIN)/belvedere serve

test: $(VENV)/.dev system-packages
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --no-loadscope-reorder

soak: $(VENV)/.dev
	SOAK_EXAMPLES=$${SOAK_EXAMPLES:-20000} PUBLISHED_EXAMPLES=$${PUBLISHED_EXAMPLES:-500} \
	  CHAOS_REQUESTS=$${CHAOS_REQUESTS:-20000} $(BIN)/python -m pytest --timeout 0 \
	  tests/integration/test_chaos.py tests/integration/test_published_api.py \
	  tests/integration/test_bad_images.py tests/integration/test_videos.py \
	  tests/unit/images/test_image_decode.py tests/unit/images/test_image_source.py

check: $(VENV)/.dev lint types docs-check test

format: $(VENV)/.dev
	$(BIN)/ruff format $(wildcard $(RUFF_PATHS))
	$(BIN)/ruff check --fix $(wildcard $(RUFF_PATHS))

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(wildcard $(RUFF_PATHS))
	$(BIN)/ruff check $(wildcard $(RUFF_PATHS))

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python scripts/reference.py --write
	$(BIN)/python scripts/dashboard.py

docs-check: $(VENV)/.dev
	$(BIN)/python scripts/reference.py --check
	$(BIN)/python scripts/dashboard.py --check

system-packages:
	@scripts/system-packages

# Its pip comes last: an environment that was left half-made is finished, not used.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Belvedere needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing Belvedere and the embedded engine (once, a few minutes) ..."
	scripts/retry $(PIP) install -e '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing Belvedere and what its tests need (once, a few minutes) ..."
	scripts/retry $(PIP) install -e '.[local,agent,dev]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) demo-output build dist
