# make repro   environment, then every table and figure of the default profile (no download needed)
# make test    environment, then the tests in the notebooks and in tests/
# make site    pages to browse, in _site/: the notebooks as they are stored, none is executed
# make lab     JupyterLab in the book
# make params  write params.yaml from conf/
# make python  say which interpreter the environment is made with; choose another: make PYTHON=python3.12 test
BIN := $(CURDIR)/.venv/bin
SYSTEM := $(subst $(BIN):,,$(PATH))
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Idle threads sleep instead of spinning: on a busy machine the difference is tenfold.
export OMP_WAIT_POLICY ?= passive

# The first of these that is Python 3.11 to 3.14 and can make an environment
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)
FITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))

.PHONY: repro test site lab params env python

# Jupyter refuses root unless it is asked to; in a container you often are
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

repro: env
	@# a source archive without git: DVC must not look for it
	@git rev-parse --git-dir > /dev/null 2>&1 || dvc config --local core.no_scm true
	dvc repro preprocess
	@# dvc repro goes run by run and page by page, and a core waits for the last seed of each;
	@# these two keep all busy, and DVC takes up what they made, or says what is wrong with a page
	stf train --all
	stf render --all --profile "$$(sed -n 's/^profile: *//p' params.yaml)" || true
	dvc repro

test: env
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 pytest -n 2

# the tools for it join the environment on the first call
site: env
	@[ .venv/.site -nt .venv/.installed ] || { \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[site]' && touch .venv/.site; }
	python docs/pages.py
	@rm -rf _site build/html
	sphinx-build -q -W --keep-going -c docs build/site build/html
	@mv build/html _site
	python docs/links.py _site
	@echo "open _site/index.html"

lab: env
	cd nbs/book && jupyter lab $(AS_ROOT)

params: env
	@python -c "from pathlib import Path; from dvc.utils.hydra import compose_and_dump as c; \
	c(Path('params.yaml').absolute(), str(Path('conf').absolute()), None, 'config', '', [])"

python:
	@PATH="$(SYSTEM)"; for p in $(PYTHONS); do \
	  if "$$p" -c "$(FITS)" 2> /dev/null; then command -v "$$p"; exit 0; fi; done; \
	echo "Python 3.11 to 3.14 with venv is needed, and $(PYTHONS) is not. Install one (on Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; exit 1

# made anew when the packages change, or when PYTHON= asks for another version than the one that is there
env:
	@new() { [ .venv/.installed -nt constraints.txt ] && [ .venv/.installed -nt pyproject.toml ]; }; \
	if new && [ -z "$(PYTHON)" ]; then exit 0; fi; \
	python=$$($(MAKE) -s python) || exit 1; \
	if new && [ "$$(.venv/bin/python -V)" = "$$($$python -V)" ]; then exit 0; fi; \
	echo "environment: $$($$python -V) ($$python), in .venv"; \
	"$$python" -m venv --clear .venv && \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' && \
	touch .venv/.installed
