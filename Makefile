# make test, bench, docs, check: set up .venv on the first call (utils/env.sh), or use the active environment if it has
# the package.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ENV := . utils/env.sh
# Every shell script of ours; a symbolic link is the same script again.
SCRIPTS = $$(find utils steps local recipes .ci -type f \( -name '*.sh' -o -path '.ci/run' -o -path 'utils/bin/*' \) | sort)

# what bench.run is called with, such as BENCH="--only pgd"
BENCH ?=

.PHONY: help env lock audit test test-fast test-slow bench docs check lint format types shell doctest clean

help:
	@echo "make env     make the Python environment .venv (about 5 GB, once)"
	@echo "make lock    write requirements.lock anew, for utils/make_env.sh --locked"
	@echo "make audit   ask for known holes in what requirements.lock names; both need pip install -e .[supply]"
	@echo "make test    run the tests; KALDI_UQ_FSDD=<dir> adds those on real recordings"
	@echo "             test-fast leaves out those of seconds each, test-slow runs those that take minutes"
	@echo "make bench   measure beside other software, bench/RESULTS.md; pip install -e .[bench] brings that"
	@echo "make docs    build the documentation, docs/_build/html; pip install -e .[docs] brings what that needs"
	@echo "make check   ruff, mypy, shellcheck, doctests"
	@echo "make clean   remove caches and build products; .venv, data and results stay"

env:
	@utils/make_env.sh

lock:
	@$(ENV); utils/make_lock.sh

# --strict: a package of which nothing is known is a failure, not one without holes
audit:
	@$(ENV); python3 -m pip_audit --strict --disable-pip --require-hashes -r requirements.lock

test:
	@$(ENV); python3 -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-fast:
	@$(ENV); python3 -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not long"

test-slow:
	@$(ENV); python3 -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m slow

bench:
	@$(ENV); python3 -m bench.run $(BENCH)

# Warnings are errors.  Runs the tutorial; what it computed is kept until the code of the package changes.
docs:
	@$(ENV); python3 -c "import furo, ipykernel, myst_nb, sphinx, sphinx_copybutton" 2>/dev/null || \
	  { echo "make docs: packages are missing: python3 -m pip install -e '.[docs]'" >&2; exit 1; }
	@$(ENV); python3 -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# make -k check goes on after the first that fails
check: lint format types shell doctest

lint:
	@$(ENV); python3 -m ruff check .

format:
	@$(ENV); python3 -m ruff format --check .

types:
	@$(ENV); python3 -m mypy kaldi_uq

shell:
	@$(ENV); shellcheck -x -P SCRIPTDIR -e SC1091 $(SCRIPTS)
	@for script in utils/*.pl; do perl -c "$$script" 2>&1 | { grep -v 'syntax OK$$' || true; }; done

doctest:
	@$(ENV); python3 -m pytest -q --doctest-modules --ignore kaldi_uq/engine/pykaldi.py kaldi_uq # needs PyKaldi

clean:
	rm -rf build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
