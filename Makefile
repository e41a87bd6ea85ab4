# Two commands set everything up on a fresh Debian 12 machine: `make demo` and `make test`.
DESTDIR ?=
PREFIX  ?= /usr
PYTHON  := .venv/bin/python

help:            ## list what is supported
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

setup:           ## install what the project needs (Debian packages, .venv)
	@tests/setup.sh

demo: setup      ## run the main job on a throw-away host, narrated, in about a minute
	@$(PYTHON) -m tests.demo

test: setup      ## run the whole test suite
	@$(PYTHON) -m pytest

bench: setup     ## print measured figures side by side with peers
	@$(PYTHON) -m tests.bench

lock:            ## pin the newest allowed versions in requirements.lock
	@.venv/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --upgrade \
	  --python-version 3.11 --group dev pyproject.toml \
	  --output-file requirements.lock

clean:           ## remove what the project made here
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test bench lock clean
