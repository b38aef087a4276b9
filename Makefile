# `make run` and `make test` work from a clean clone with nothing installed.

PYTHON := .venv/bin/python

.PHONY: run build test check openapi released sdk judges autobahn bench sanitize fuzz lock clean

run: build  ## build, start both planes with SQLite, load the example into an empty database
	exec .venv/bin/narthex start --example

build:  ## .venv/bin/narthex, and nothing started
	tools/bootstrap.sh run

# Most tests wait: JOBS processes run them, each a file at a time.  What measures runs alone after.
JOBS := $(shell expr $$(nproc) + 1)
COVERED := --cov --cov-report= --durations=15
test:  ## the suite, then line and branch coverage of the Python code
	tools/bootstrap.sh test
	$(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not alone" $(COVERED) $(PYTEST)
	$(PYTHON) -m pytest -m alone $(COVERED) --cov-append --cov-report=json:build/coverage.json $(PYTEST)
	$(PYTHON) tools/coverage_gate.py build/coverage.json 90

check:  ## ruff and mypy, as the suite runs them
	tools/bootstrap.sh test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

openapi:  ## write openapi.json from the app
	tools/bootstrap.sh run
	$(PYTHON) -m control.openapi > build/openapi.json
	mv build/openapi.json openapi.json

released:  ## with each release: what later changes of openapi.json are compared with
	$(PYTHON) -m tools.breaking --released

SDK ?=
sdk:  ## clients out of openapi.json: packages for pip and npm, in build/sdk; SDK=python makes one
	tools/bootstrap.sh test
	$(PYTHON) -m tools.sdk.generate $(SDK)

judges:  ## what others wrote, asked about us; the last lines say which ran
	tools/bootstrap.sh test
	tools/judges.sh

autobahn:  ## all 517 cases of the Autobahn suite, each way, half an hour; needs a CPython 2.7
	tools/bootstrap.sh test
	$(PYTHON) -m tests.compliance.autobahn.run --cases all

BENCH := --readme
bench:  ## ours beside nginx, HAProxy and Envoy, ten minutes; writes the table of the README
	tools/bootstrap.sh run
	$(PYTHON) -m bench $(BENCH)

sanitize:  ## the engine's tests under AddressSanitizer and UBSan, its races under ThreadSanitizer
	tools/bootstrap.sh test
	tools/sanitize.sh

SECONDS := 60
fuzz:  ## each libFuzzer target of tests/fuzz for SECONDS; tests/fuzz/HOURS sums them up
	tools/bootstrap.sh test
	tools/fuzz.sh $(SECONDS)

lock:  ## write both lock files again, from pyproject.toml
	tools/bootstrap.sh run
	tools/lock.sh

clean:  ## what building made; narthex-data stays
	rm -rf .venv build *.egg-info htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
	rm -rf .hypothesis dataplane/*.so dataplane/_*.c dataplane/*.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
