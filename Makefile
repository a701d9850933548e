# Every target sets up what it needs, on Debian or Ubuntu with Python 3.11 or newer. PYTHON=python3.12 picks another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

# $(call apt,PACKAGES): installs system packages where it may; where it may not, the line after it says what is missing.
apt = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); fi

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo   let the shipped agent play real Pong and write demo/pong.mp4"
	@echo "make test   lint, types, layers and all tests"
	@echo "make lint   the same without the tests"
	@echo "make clean  remove $(VENV), demo/ and every cache; runs/ and data/ stay"

demo: $(VENV)/.installed
	@$(BIN)/kpagent play --agent pong --out demo/pong.mp4
	@echo "train it: $(BIN)/kpagent train --env ALE/Pong-v5 --weights pong --out runs/pong_agent"
	@echo "wrap an environment of yours: $(BIN)/python scripts/wrap_your_env.py"

# Two files at a time: the suite has little that a second thread would speed up.
test: lint $(VENV)/.renders
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "not formatted: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that a new environment gets, so an interrupted one is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "kpagent needs Python 3.11 or newer, and '$(PYTHON)' is not: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call apt,$(VENV_PACKAGE)); }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python has no venv module here: apt-get install $(VENV_PACKAGE)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

VENV_PACKAGE = $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

# MuJoCo renders without a display through EGL, which is a library of the system.
RENDER := MUJOCO_GL=egl $(BIN)/python -c 'import mujoco as m; \
	m.Renderer(m.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()' >/dev/null 2>&1

$(VENV)/.renders: $(VENV)/.installed-dev
	@$(RENDER) || { $(call apt,libegl1 libgl1); }
	@$(RENDER) || { \
		echo "MuJoCo cannot render here: it needs EGL, apt-get install libegl1 libgl1" >&2; exit 1; }
	@touch $@
