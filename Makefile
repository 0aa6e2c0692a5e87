# Everything a person does with this project. Nothing here needs root; tools/venv.sh says how.
#
#   make test PYTHON=python3.13 VENV=.venv-3.13     another Python beside the first
#   make test ARGS='-k rebind -x'                   arguments for pytest
#   make serve ARGS='--listen :2525 --limit /24=100'

PYTHON ?= python3
VENV   ?= .venv

BIN     := $(VENV)/bin
PY      := $(BIN)/python
PIP     := $(PY) -m pip --disable-pip-version-check install --quiet
PYTEST  := $(PY) -m pytest
NATIVE  := setup.py $(wildcard src/*.pyx src/inbound_audit/_*/*.px[di])
PACKAGE := $(shell find src -name '*.py' -o -name '*.pyi' -o -name '*.lua')

# Stamps lie in the environment, so that they go when it goes. Each is touched when what it names is in place.
HAVE    := $(VENV)/.have

.DEFAULT_GOAL := help
.PHONY: help build serve test faults bench bench-instructions debug sanitize lint format wheel dist clean
.SUFFIXES:
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(HAVE)-core ## make the environment and build the core in it
	@$(PY) -c 'import inbound_audit._ipcount as core; print("built", core.__file__)'

serve: $(HAVE)-core ## an SMTP listener with the stock Lua policy, on port 2525 (ARGS replaces its arguments)
	$(BIN)/inbound-audit serve $(or $(ARGS),--policy examples/policies/stock.lua)

test: $(HAVE)-dev ## the whole suite
	$(PYTEST) $(ARGS)

faults: $(HAVE)-dev ## shared mode and kept series while processes are killed, files damaged, disks full: the long form
	INBOUND_AUDIT_FAULTS=full $(PYTEST) tests/system/test_faults.py tests/system/test_persist.py tests/system/test_persist_log.py $(ARGS)

bench: $(HAVE)-bench ## measure this and its peers, and write docs/performance.md (BENCH_QUICK=1: in a minute)
	mkdir -p .bench
	$(PYTEST) benchmarks -q --benchmark-quiet --benchmark-json=.bench/results.json $(ARGS)
	$(PY) -m benchmarks.report

# The same hot calls in instructions, by valgrind: for a machine that is never quiet.
bench-instructions: $(HAVE)-bench
	$(PY) -m benchmarks.instructions

lint: $(HAVE)-dev ## ruff, mypy, and the stub against the built core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src $(BIN)/stubtest --mypy-config-file pyproject.toml inbound_audit._ipcount

format: $(HAVE)-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# ---- the environment

$(HAVE)-pip: tools/venv.sh
	sh tools/venv.sh $(VENV) $(PYTHON)
	$(PIP) --upgrade 'pip>=25.1'  # the first that knows --group
	touch $@

$(HAVE)-core: $(HAVE)-pip pyproject.toml $(NATIVE)
	$(PIP) --group build
	$(PIP) --no-build-isolation --editable '.[all]'
	touch $@

$(HAVE)-dev: $(HAVE)-core
	$(PIP) --group dev
	touch $@

$(HAVE)-bench: $(HAVE)-dev
	$(PIP) --group bench
	$(PIP) --group bench-cxx || echo 'pysubnettree needs a C++ compiler (apt install g++): this report goes without it'
	touch $@

# ---- other builds of the core: the same suite, the package taken from build/VARIANT/lib instead of src

debug: build/debug/.have ## the suite over a build that checks bounds and assertions
	$(call on,debug) $(PYTEST) -m 'not tooling' $(ARGS)

# A leak check would count what CPython keeps for good; Python's own allocator would hide overruns from the sanitizer;
# and a report is written to the file descriptor just before the process dies, so that one is not captured.
sanitize: build/sanitize/.have ## the suite under AddressSanitizer and UndefinedBehaviorSanitizer
	$(call on,sanitize) PYTHONMALLOC=malloc LD_PRELOAD="$$($(call runtime,libasan)) $$($(call runtime,libubsan))" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(PYTEST) -m 'not tooling and not memory' -o timeout=600 --capture=sys $(ARGS)

on      = env PYTHONPATH=$(CURDIR)/build/$(1)/lib INBOUND_AUDIT_CORE=$(CURDIR)/build/$(1)/lib
runtime = realpath "$$($(or $(CC),gcc) -print-file-name=$(1).so)"

# In the recipe, not exported for the target: what is made before it, the core in src above all, must not hear of it.
switch-debug    := INBOUND_AUDIT_DEBUG=1
switch-sanitize := INBOUND_AUDIT_SANITIZE=1

build/%/.have: $(HAVE)-dev $(NATIVE) $(PACKAGE)
	rm -rf build/$*
	$(switch-$*) $(PY) setup.py --quiet build --build-lib build/$*/lib
	touch $@

# ---- what is published

wheel: dist
dist: $(HAVE)-dev ## the sdist, and the wheel built from that sdist, into dist/
	rm -rf dist
	$(PY) -m build --no-isolation

clean: ## remove all that this file made
	rm -rf $(VENV) build dist .bench src/*.egg-info src/inbound_audit/*.so
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
