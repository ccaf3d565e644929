# Everything lives in this folder: Python packages in .venv, npm packages in .cache.
PYTHON ?= python3
PORT ?= 8080
ARGS ?=

BIN := .venv/bin
# From elsewhere where the wheel's does not run, as on NixOS.
RUFF ?= $(BIN)/ruff
NPM_LOCAL := .cache/npm-local
NPM_TESTS := .cache/npm-tests
NPM_CLIENTS := .cache/npm-clients
NPM_BENCH := .cache/bench/npm
MCP1 := .cache/mcp1
TRAEFIK_OLDEST := .cache/traefik-oldest
# Other tools to measure against; each gets an environment of its own, since their dependencies do not agree.
BENCH_PYTHON := $(patsubst bench/requirements/%.txt,.cache/bench/%/ready,$(wildcard bench/requirements/*.txt))
# What the layers of `make test`, and `make bench`, need of Debian; installed where that is possible.
DEBIAN_PACKAGES := chromium chromium-driver debootstrap iproute2 nix-bin prometheus prometheus-node-exporter redis-server systemd-container wrk

.DEFAULT_GOAL := help
.PHONY: help run test prepare test-unit test-flows test-e2e test-clients test-browser test-systemd lint format evaluate dashboard bench debian-packages systemd-root clean

help: ## Say what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: .venv/local $(NPM_LOCAL)/ready ## The gateway on this machine: PORT=8080 ARGS='--server NAME="COMMAND …"'
	@LOCAL_STACK_LAUNCHER=make exec $(BIN)/python -m local --port $(PORT) $(ARGS)

test: prepare lint ## All tests, linters and types
	$(BIN)/pytest -ra --numprocesses=3 --dist=loadfile --no-loadscope-reorder

prepare: debian-packages systemd-root .venv/test $(MCP1)/ready $(TRAEFIK_OLDEST)/ready $(NPM_LOCAL)/ready $(NPM_TESTS)/ready $(NPM_CLIENTS)/ready ## Install what the tests need; with --jobs=4, several things at once

test-unit: .venv/test $(MCP1)/ready ## What needs nothing but Python
	$(BIN)/pytest -ra tests/auth_service tests/stdio_bridge tests/local tests/monitoring

test-flows: .venv/test ## The OAuth flows on a real Redis, and the service with several workers
	$(BIN)/pytest -ra tests/flows tests/service

test-e2e: .venv/test $(TRAEFIK_OLDEST)/ready $(NPM_LOCAL)/ready $(NPM_TESTS)/ready ## Real clients through the whole local stack
	$(BIN)/pytest -ra tests/e2e

test-clients: .venv/test $(MCP1)/ready $(NPM_LOCAL)/ready $(NPM_TESTS)/ready $(NPM_CLIENTS)/ready ## Agent programs log in and use a server
	$(BIN)/pytest -ra tests/clients

test-browser: debian-packages .venv/test $(NPM_TESTS)/ready ## The pages in headless Chromium: SCREENSHOTS=FOLDER keeps pictures
	$(BIN)/pytest -ra tests/chromium

test-systemd: debian-packages .venv/test ## The NixOS module's units under a real systemd (as root)
	$(BIN)/pytest -ra tests/systemd

lint: .venv/test ## Formatting, linters, types, layering
	$(RUFF) format --check .
	$(RUFF) check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/test ## Mend what can be mended
	$(RUFF) check --fix .
	$(RUFF) format .

bench: debian-packages .venv/test $(BENCH_PYTHON) $(NPM_BENCH)/ready $(NPM_TESTS)/ready ## Measure next to other tools, several minutes: ARGS=--update-docs
	$(BIN)/python -m bench.bridge $(ARGS)
	$(BIN)/python -m bench.conformance $(ARGS)
	$(BIN)/python -m bench.verify $(ARGS)
	$(BIN)/python -m bench.logins $(ARGS)
	$(BIN)/python -m bench.units $(ARGS)
	$(BIN)/python -m bench.streams --busy
	$(BIN)/python -m bench.traces $(ARGS)

evaluate: debian-packages .venv/test ## Evaluate the NixOS module anew, for tests/systemd/evaluated and docs/options.md
	$(BIN)/python -m tests.systemd.evaluation

dashboard: .venv/test ## Write Grafana's dashboard anew from monitoring/dashboard.py
	$(BIN)/python -m monitoring.dashboard

clean: ## Remove what was installed and the local stack's state
	rm -rf .venv .cache .local-stack

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "no virtual environment could be made: on Debian, install python3-venv" >&2; exit 2; }
	@touch $@

.venv/local: .venv/python pyproject.toml
	@echo "installing Python packages into .venv, which takes a minute or two" >&2
	@$(BIN)/pip install --quiet --editable '.[fast,local,tracing]'
	@touch $@

.venv/test: .venv/python pyproject.toml
	@echo "installing Python packages into .venv, which takes a minute or two" >&2
	@$(BIN)/pip install --quiet --editable '.[fast,local,test,tracing]'
	@touch $@

$(BENCH_PYTHON): .cache/bench/%/ready: bench/requirements/%.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --requirement $< && touch $@

# Packages of other versions, which cannot be installed next to those that everything else uses.
$(MCP1)/ready: tests/requirements/mcp1.txt
$(TRAEFIK_OLDEST)/ready: tests/requirements/traefik-oldest.txt
$(MCP1)/ready $(TRAEFIK_OLDEST)/ready: .venv/python
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --requirement $(filter %.txt,$^) && touch $@

NPM_INSTALL := ci
# opencode has a package for each platform and version, and not every registry has them all: `ci` wants them all.
$(NPM_CLIENTS)/ready: NPM_INSTALL := install
# Without Node.js the stack leaves its npm server out, and tests skip what needs it; both say so.
$(NPM_LOCAL)/ready: local/npm/package-lock.json
$(NPM_TESTS)/ready: tests/npm/package-lock.json
$(NPM_CLIENTS)/ready: tests/clients/npm/package-lock.json
$(NPM_BENCH)/ready: bench/npm/package-lock.json
%/ready:
	@mkdir -p $(@D)
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
	  cp $(dir $<)package.json $(dir $<)package-lock.json $(@D) && \
	  npm $(NPM_INSTALL) --prefix $(@D) --loglevel=error --no-audit --no-fund >/dev/null && touch $@; \
	else echo "Node.js and npm are not installed: doing without $(dir $<)package.json" >&2; fi

# Where it cannot be built, the tests that need it try again, and say why.
systemd-root: debian-packages .venv/test
	-@if [ "$$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then \
	  $(BIN)/python -c 'from pathlib import Path; from tests.systemd.root import cached_root; cached_root(Path())'; \
	fi

debian-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  missing=$$(for package in $(DEBIAN_PACKAGES); do \
	    dpkg-query --show --showformat='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || echo $$package; \
	  done); \
	  [ -z "$$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $$missing; }; \
	else echo "not root on Debian: tests that need one of $(DEBIAN_PACKAGES) are skipped where it is missing" >&2; fi
