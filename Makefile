# make repro   environment, then every table and figure of the default profile (no download needed)
# make test    environment, then the tests in the notebooks and in tests/
# make params  write params.yaml from conf/
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Idle threads sleep instead of spinning: on a busy machine the difference is tenfold.
export OMP_WAIT_POLICY ?= passive

.PHONY: repro test params env

repro: env
	@# a source archive without git: DVC must not look for it
	@git rev-parse --git-dir > /dev/null 2>&1 || dvc config --local core.no_scm true
	dvc repro

test: env
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 pytest -n 2

params: env
	@python -c "from pathlib import Path; from dvc.utils.hydra import compose_and_dump as c; \
	c(Path('params.yaml').absolute(), str(Path('conf').absolute()), None, 'config', '', [])"

env: .venv/.installed

.venv/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say which: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
