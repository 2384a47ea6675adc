# Two commands do everything on a fresh machine with Python 3.11, git and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# pytest compiles its tests, and hypothesis, in each process anew where Python may not keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo quick test check every-test coverage medium bench lint types dist docs format clean

demo: .venv/demo-installed  ## find a super ticket with the small encoder on a built-in task: three seeds, five minutes
	$(BIN)/supertickets find --task entailment --seeds 3 --levels 0.1,0.3,0.5,0.7 --kinds winning,random --out demo

test: .venv/dev-installed  ## all tests except the slow ones: kills, Ray, fuzzing, scripts, worker processes, whole runs
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

quick: .venv/dev-installed  ## the tests that take a fifth of a second or less, in under a minute, to run while you write code
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not medium"

medium: .venv/dev-installed  ## measure all tests except the slow ones, on an idle machine, and list those that `quick` leaves out
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" --write-medium

check: .venv/dev-installed  ## what CI runs: lint, types and every test; a missing browser or Ray is an error
	$(MAKE) --no-print-directory --jobs 2 lint types every-test

every-test: .venv/dev-installed
	SUPERTICKETS_TEST_ALL=1 $(BIN)/pytest -n 2 --dist worksteal

bench: .venv/dev-installed  ## measure what users wait for, on an idle machine, into benchmarks/bench.json and docs/speed.md
	$(PIP) torch-pruning==1.6.1
	$(BIN)/python benchmarks/bench.py

coverage: .venv/dev-installed  ## the tests of `test`, with the lines of the package that none of them runs
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" --cov --cov-fail-under 95

lint: .venv/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev-installed
	$(BIN)/mypy

dist: .venv/dev-installed  ## build the sdist and the wheel, and try the wheel alone in a clean environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(PYTHON) scripts/try_wheel.py dist

docs: build/example/report.html  ## build the site into site/, without a warning; the report in it is of a small study
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

build/example/report.html: .venv/dev-installed
	$(BIN)/supertickets find --task entailment --seeds 2 --levels 0.1,0.3,0.5,0.7 \
		--kinds winning,random --epochs 3 --out build/example

format: .venv/dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo dist site .pytest_cache .mypy_cache .ruff_cache

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo-installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) --editable ".[train,default-model]"
	touch $@

.venv/dev-installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) --editable ".[all,docs,dev]"
	touch $@ .venv/demo-installed
