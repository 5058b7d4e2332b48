# Needs python3 (3.10 to 3.13) with venv, and make. Every target may be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# By file: what a module's fixtures train is trained once, not once for each worker that gets one of its tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo docs check test lint clean

demo: $(INSTALLED) ## train five methods on digits, attack them, write demo-out/report.html
	$(BIN)/headstart demo --out demo-out

docs: $(INSTALLED) ## build the documentation site, site/index.html; needs no network to be read
	$(BIN)/python -m website

check: lint ## lint, types and the quick part of the tests: below a minute, while one works
	$(PYTEST) -m "not slow and not dist"

test: lint ## lint, types and the whole test suite: what every change must pass
	$(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff check src tests benchmarks website
	$(BIN)/ruff format --check src tests benchmarks website
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps timm torchvision # their torch is another build
	touch $@

clean:
	rm -rf $(VENV) demo-out site
