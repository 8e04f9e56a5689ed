# Torii's verbs; `make` alone lists them. What they install lies in this folder, and `make clean` removes it; only the
# peers of the benchmark and the Node clients, which are large, lie in ~/.cache. The versions are those of requirements/.
#
#   make test PYTHON=python3.13     another interpreter, with a venv of its own beside the usual one
#   make run ARGS="--port 9000"     options of `torii serve`

PYTHON ?= python3
VENV := .venv$(if $(filter-out file,$(origin PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
RESOLVER := $(or $(UV),.venv-uv/bin/uv)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
# The versions and hashes of a lock, and nothing that would first have to be built; then Torii itself, from the checkout.
LOCKED := $(INSTALL) --require-hashes --only-binary :all: -r
TORII := $(INSTALL) --no-deps --no-build-isolation --editable .

# What translates must be tested to the last branch.
PURE := app/core/types.py,app/core/errors.py,app/core/names.py,app/core/parameters.py,app/core/origins.py,app/core/sse.py,app/core/json.py,app/core/redaction.py,app/core/usage.py,app/core/vectors.py,app/routing/table.py,app/endpoints/*,app/upstreams/*.py
# The tests of it that need no process; those of pages and classifiers call a gateway over sockets.
PURE_TESTS := tests/core tests/endpoints tests/routing/test_table.py tests/server/test_web.py tests/server/test_web_accounts.py tests/server/test_svip.py tests/server/test_classifiers.py $(filter-out tests/upstreams/test_client.py tests/upstreams/test_proxies.py,$(wildcard tests/upstreams/test_*.py))

.DEFAULT_GOAL := help
.PHONY: help run test test-newest test-min lock check coverage coverage-pure faults soak team hosts fuzz fuzz-atheris clients clients-node clients-java bench bench-peers install clean
.NOTPARALLEL:

help: ## list the verbs
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## start the gateway: with JINA_API_KEY or AIHUBMIX_API_KEY for real, else its sandbox
	@TORII_SANDBOX=$${TORII_SANDBOX:-auto} TORII_STARTED_BY=make exec $(BIN)/torii serve $(ARGS)

test: $(VENV)/.dev ## run all tests
	@$(BIN)/python -m pytest -q $(ARGS)

test-newest: $(RESOLVER) ## run all tests with the newest versions that pyproject.toml allows, and the newest uvicorn of all, in a venv of their own
	@$(call test-with,newest,highest,uvicorn)

test-min: $(RESOLVER) ## run all tests with the oldest versions that pyproject.toml allows, in a venv of their own
	@$(call test-with,min,lowest-direct)

lock: $(RESOLVER) ## renew requirements/: the newest versions for every Python and system, with their hashes
	@all=$$(mktemp) && trap 'rm -f "$$all"' EXIT && \
	$(call pin,--extra test --extra check --extra faults --extra bench,"$$all") && \
	$(call pin,--extra tokens --constraint "$$all",requirements/run.txt) && \
	$(call pin,--extra tokens --extra postgres --extra redis --constraint "$$all",requirements/hosts.txt) && \
	$(call pin,--extra test --extra check --constraint "$$all",requirements/dev.txt) && \
	$(call pin,--extra faults --constraint "$$all",requirements/faults.txt) && \
	$(call pin,--extra bench --constraint "$$all",requirements/bench.txt)

check: $(VENV)/.dev ## lint, format, types, architecture, documentation
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted; this does it: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/mypy --strict --no-error-summary
	@$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py

coverage: $(VENV)/.dev ## run all tests; 95 % of the lines and branches must be met, 100 % where it is pure translation
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=95
	@$(BIN)/coverage report --fail-under=100 --include='$(PURE)'

coverage-pure: $(VENV)/.dev ## run the tests of pure translation alone; 97 % of its lines and branches must be met
	@$(BIN)/coverage erase
	@$(BIN)/coverage run --source=app/core,app/endpoints,app/routing,app/upstreams -m pytest -q $(PURE_TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=97 --include='$(PURE)'

faults: $(VENV)/.faults ## play the fault matrix, check the gateway against its own document, print what became of each row
	@$(BIN)/python -m tests.faults $(ARGS)

soak: $(VENV)/.dev ## run ten minutes of load, faults, departures and reloads; ARGS="--minutes 1 --seed 2"
	@$(BIN)/python -m tests.soak $(ARGS)

team: $(VENV)/.dev ## show that no budget is overspent and nothing leaks, with 1 and 4 workers; ARGS="burst killed-4" for some of it
	@$(BIN)/python -m tests.team $(ARGS)

hosts: $(VENV)/.dev ## show the same of three processes over real servers, PostgreSQL alone and with Redis; ARGS="killed" for some of it
	@$(BIN)/python -m tests.hosts $(ARGS)

fuzz: $(VENV)/.dev ## search long for what breaks the readers of JSON, events, answers and requests
	@$(BIN)/python -m pytest -q tests/fuzz --hypothesis-profile=fuzz $(ARGS)

fuzz-atheris: $(VENV)/.dev ## the same guided by coverage, a minute each for JSON and events; needs Atheris, thus CPython on Linux
	@$(INSTALL) --no-build-isolation --editable '.[fuzz]'
	@for target in json events; do $(BIN)/python -m tests.fuzz.guided $$target -max_total_time=60 -max_len=512 $(ARGS) || exit 1; done

clients: $(VENV)/.dev ## run the large Python clients, and the OpenAI SDK of older versions, in a venv of their own
	@test -d $(VENV)-clients || $(PYTHON) -m venv $(VENV)-clients
	@$(VENV)-clients/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --editable '.[test,clients]'
	@$(VENV)-clients/bin/python -m pytest -q tests/clients tests/test_readme.py
	@for version in 2.54.0 1.109.1; do echo "openai $$version"; \
	  $(VENV)-clients/bin/python -m pip install --quiet --disable-pip-version-check openai==$$version && \
	  $(VENV)-clients/bin/python -m pytest -q tests/clients/test_openai.py || exit 1; done

clients-node: $(VENV)/.run ## run the Node clients against the sandbox; npm fetches them once
	@$(BIN)/python tests/clients/node/check.py $(ARGS)

clients-java: $(VENV)/.run ## run Java's own HTTP client against the sandbox; needs a JDK
	@$(BIN)/python -m tests.clients.java.check

bench: $(VENV)/.bench ## measure Torii beside nginx and its peers; ARGS="--help" says what can be chosen
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/.bench ## install LiteLLM and Portkey for it, outside of this folder
	@$(BIN)/python -m bench.peers

install: $(VENV)/.dev ## make .venv with Torii and all that its tests and checks need

clean: ## remove .venv and everything else that was made here
	@rm -rf .venv .venv-* .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as old as the installation; a changed lock or pyproject.toml makes it anew.

$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "installing Torii into $(VENV) ..."
	@$(LOCKED) $< && $(TORII)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing Torii and its tests' needs into $(VENV) ..."
	@$(LOCKED) $< && $(TORII)
	@touch $@ $(VENV)/.run

$(VENV)/.faults: requirements/faults.txt $(VENV)/.dev
	@$(LOCKED) $<
	@touch $@

$(VENV)/.bench: requirements/bench.txt | $(VENV)/.dev
	@echo "installing what the benchmark needs into $(VENV) ..."
	@$(LOCKED) $<
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Torii needs Python 3.11 or newer with venv. On Debian or Ubuntu:" >&2; \
	  echo "apt-get install python3 python3-venv git make" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@echo '*' > $(VENV)/.gitignore

# uv resolves for Pythons and systems other than this one, and to the oldest versions; pip does neither.
.venv-uv/bin/uv:
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# $(call pin,options,file): setuptools is in each, since Torii is built with it.
pin = echo setuptools | $(RESOLVER) pip compile --quiet --upgrade --universal --python-version 3.11 --only-binary :all: \
	--generate-hashes --no-annotate --no-emit-package torii-gateway --custom-compile-command 'make lock' pyproject.toml - $(1) \
	--output-file $(2)

# $(call test-with,name,resolution,packages whose upper bounds do not hold)
test-with = lifted=$$(mktemp) && trap 'rm -f "$$lifted"' EXIT && printf '%s\n' $(3) > "$$lifted" && \
	$(PYTHON) -m venv --clear $(VENV)-$(1) && \
	$(RESOLVER) pip install --quiet --python $(VENV)-$(1)/bin/python --resolution $(2) --override "$$lifted" --editable '.[test]' && \
	echo $$($(RESOLVER) pip freeze --quiet --exclude-editable --python $(VENV)-$(1)/bin/python) && \
	$(VENV)-$(1)/bin/python -m pytest -q $(ARGS)
