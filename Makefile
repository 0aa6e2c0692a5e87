# Everything a person does with this project. Nothing here needs root; tools/venv.sh says how.
#
#   make test PYTHON=python3.13 VENV=.venv-3.13     another Python beside the first
#   make test ARGS='-k rebind -x'                   arguments for pytest
#   make test-one ROOM=trie                         the tests of one room
#   make serve ARGS='--listen :2525 --limit /24=100'

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= all

BIN     := $(VENV)/bin
PY      := $(BIN)/python
PIP     := $(PY) -m pip --disable-pip-version-check install -qq
# Each process of pytest would rewrite the assertions of all files anew if it were told to keep no compiled ones.
PYTEST  := env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest
# Says what a step does before it does it, so that nothing is silent for long.
SAY     := @printf '==> %s\n'
NATIVE  := setup.py $(wildcard src/*.pyx src/inbound_audit/_*/*.px[di] src/inbound_audit/_*/*.h)
PACKAGE := $(shell find src -name '*.py' -o -name '*.pyi' -o -name '*.lua')

# Stamps lie in the environment, so that they go when it goes. Each is touched when what it names is in place.
HAVE    := $(VENV)/.have

.DEFAULT_GOAL := help
.PHONY: help build serve day pictures cluster test test-system test-readers test-tooling test-all test-core test-one test-changed \
  faults faults-cluster fuzz fuzz-one bench bench-cluster bench-flood bench-instructions peers debug sanitize sanitize-core tsan model soak lint format schema docs man \
  docs-serve changelog dist wheels clean
.SUFFIXES:
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(HAVE)-core ## make the environment and build the core in it
	@$(PY) -c 'import inbound_audit._ipcount as core; print("built", core.__file__)'

serve: $(HAVE)-core ## an SMTP listener with the stock Lua policy, on port 2525, and its page (with ARGS: serve with these)
	$(if $(ARGS),$(BIN)/inbound-audit serve $(ARGS),$(PY) tools/serve_demo.py)

day: $(HAVE)-core ## a simulated day of a mail server, in the shared audit "day" (ARGS='--seconds 60 --hold')
	$(PY) tools/simulated_day.py $(ARGS)

pictures: $(HAVE)-dev $(HAVE)-browser ## the pictures of README.md and docs/, of a simulated day
	$(PY) tools/pictures.py

cluster: $(HAVE)-core ## three nodes on this machine, with traffic, until Ctrl-C: what each of them counts
	$(PY) tools/cluster_demo.py $(ARGS)

# The tiers are the folders of tests/, and marks (tests/conftest.py). Each runs in a process per core, and those that wait
# for peers, the unit and the system tier, in one more. Outside of it a file stays in one process: its tests share
# servers and builds, and measure what they do to the machine.
ONE_MORE := $(shell expr $$(getconf _NPROCESSORS_ONLN || echo 1) + 1)
PARALLEL := -n $(ONE_MORE) --dist worksteal
BY_FILE  := -n auto --dist loadfile

test: $(HAVE)-dev ## the unit tier, under a minute: no processes, no compilers
	$(SAY) 'the unit tier'
	$(PYTEST) tests/unit -m unit $(PARALLEL) -q $(ARGS)

test-system: $(HAVE)-dev $(HAVE)-browser ## workers, servers, commands and faults, each in processes of its own
	$(SAY) 'the system tier'
	$(PYTEST) tests/system tests/readers tests/unit/listeners -m system -n $(ONE_MORE) --dist loadfile -q $(ARGS)

test-readers: $(HAVE)-dev ## the readers of shared files in C and Lua
	$(SAY) 'the readers tier'
	$(PYTEST) tests/readers -m readers $(BY_FILE) -q $(ARGS)

test-tooling: $(HAVE)-dev ## layers, compiled code, packaging, types, and the examples of README and docs
	$(SAY) 'the tooling tier'
	$(PYTEST) tests/tooling tests/readers -m tooling $(BY_FILE) -q $(ARGS)

test-all: $(HAVE)-dev $(HAVE)-browser ## everything
	$(SAY) 'every tier'
	HYPOTHESIS_PROFILE=$(or $(HYPOTHESIS_PROFILE),thorough) $(PYTEST) tests $(BY_FILE) -q $(ARGS)

test-core: $(HAVE)-dev ## trees, windows and threads alone (EXTRAS= for a Python on which not every library exists)
	$(PYTEST) tests/unit/core tests/unit/series $(addprefix tests/unit/test_,audit.py threads.py log_limiter.py ration.py) -q $(ARGS)

test-one: $(HAVE)-dev ## the tests of one room: make test-one ROOM=trie
	$(if $(ROOM),,$(error which room? make test-one ROOM=trie))
	$(PYTEST) $(or $(shell find tests -name 'test_*$(ROOM)*.py'),$(error no tests/**/test_*$(ROOM)*.py)) $(ARGS)

test-changed: $(HAVE)-dev ## the tests of the rooms that differ from main
	$(PY) tools/changed_tests.py | xargs -r $(PYTEST) -q $(ARGS)

faults: $(HAVE)-dev ## shared mode and kept series while processes are killed, files damaged, disks full: the long form
	INBOUND_AUDIT_FAULTS=full $(PYTEST) tests/system -k '(faults or persist or lua_bounds or power_loss) and not cluster_faults' $(ARGS)

faults-cluster: $(HAVE)-dev ## 1,000 random faults on five nodes, over each engine: after 2 s of quiet every view is the truth; floods
	INBOUND_AUDIT_FAULTS=full $(PYTEST) tests/system/test_cluster_faults.py tests/system/test_cluster_hostile.py -s -o timeout=0 $(ARGS)

model: ## the models in docs/model in all their states, and their mutants (needs spin: apt install spin); ARGS=--quick
	$(SAY) 'the models'
	$(PYTHON) tools/models.py $(ARGS)

soak: $(HAVE)-dev ## simulated traffic against a simple model: STEPS=1e9, SEED= for the same traffic once more
	$(SAY) 'what the traffic needs, compiled'
	@$(PY) tests/support/build_inner.py soak
	$(PY) -m tests.support.soaking $(or $(STEPS),1e9) $(SEED)

tsan: $(HAVE)-dev ## threads in the core at once, under ThreadSanitizer: STEPS=2e5 of each, SEED= for other traffic
	$(SAY) 'the core as a program under ThreadSanitizer, and its threads'
	$(PY) -m tests.support.racing $(or $(STEPS),2e5) $(SEED)

peers: $(HAVE)-bench  # what the benchmarks measure beside the core; their tests skip what is not there

FUZZ_SECONDS ?= 60

fuzz: $(HAVE)-fuzz ## every fuzz target for FUZZ_SECONDS, two at a time; what is found lies in build/fuzz/findings
	$(SAY) 'the fuzz targets, $(FUZZ_SECONDS) s each'
	$(PY) -m fuzz.run --seconds $(FUZZ_SECONDS) $(ARGS)

fuzz-one: $(HAVE)-fuzz ## one fuzz target: make fuzz-one TARGET=address FUZZ_SECONDS=600
	$(if $(TARGET),,$(error which target? make fuzz-one TARGET=address))
	$(PY) -m fuzz.run --seconds $(FUZZ_SECONDS) $(TARGET)

bench: $(HAVE)-bench ## measure this and its peers, and write docs/performance.md (BENCH_QUICK=1: in a minute)
	mkdir -p .bench
	$(PYTEST) benchmarks -q --benchmark-quiet --benchmark-json=.bench/results.json $(ARGS)
	$(PY) -m benchmarks.report

bench-cluster: $(HAVE)-bench ## the rows of a cluster alone: counts over nodes, what an agent pays, real agents
	$(PYTEST) benchmarks/bench_nodes.py benchmarks/bench_cluster.py benchmarks/bench_agents.py -q --benchmark-quiet --benchmark-json=.bench/cluster.json $(ARGS)
	$(PY) -m benchmarks.report --json .bench/cluster.json

bench-flood: $(HAVE)-dev ## the rows of a flood alone: what a refusal costs a gate, nginx and HAProxy (those that are installed)
	mkdir -p .bench
	$(PYTEST) benchmarks/bench_flood.py -q --benchmark-quiet --benchmark-json=.bench/flood.json $(ARGS)
	$(PY) -m benchmarks.report --lines .bench/flood.json

# The same hot calls in instructions, by valgrind: for a machine that is never quiet.
bench-instructions: $(HAVE)-bench
	$(PY) -m benchmarks.instructions

lint: $(HAVE)-dev ## ruff, cython-lint, mypy, and the stub against the built core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint --max-line-length 120 $(filter %.pyx %.pxd %.pxi,$(NATIVE)) tests/support/inner.pyx \
	  tests/support/soak.pyx tests/support/races.pyx tests/support/gate_races.pyx fuzz/native
	$(BIN)/mypy
	MYPYPATH=src $(BIN)/stubtest --mypy-config-file pyproject.toml inbound_audit._ipcount

format: $(HAVE)-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(HAVE)-docs ## the documentation site into build/site; a broken link is an error
	$(SAY) 'the documentation site'
	@$(MKDOCS) build --quiet --strict --clean
	@echo 'built build/site/index.html'

docs-serve: $(HAVE)-docs ## the documentation site on http://127.0.0.1:8000, made anew when a page changes
	$(MKDOCS) serve

schema: $(HAVE)-core ## write the JSON Schema of configuration files anew, after a change of options
	$(BIN)/inbound-audit check --schema > src/inbound_audit/cli/config.schema.tmp
	mv src/inbound_audit/cli/config.schema.tmp src/inbound_audit/cli/config.schema.json

man: $(HAVE)-core ## the manual pages, into build/man/man1
	$(BIN)/inbound-audit man --directory build/man/man1

changelog: $(HAVE)-changelog ## what changes/ says; VERSION=0.2.0 folds it into CHANGELOG.md
	$(BIN)/towncrier build $(if $(VERSION),--yes --version $(VERSION),--draft --version Unreleased)

# The reference documents the package that is built in src; its theme's authors advertise in the output of builds.
MKDOCS := NO_MKDOCS_2_WARNING=1 PYTHONPATH=tools $(BIN)/mkdocs

# ---- the environment

$(HAVE)-pip: tools/venv.sh
	$(SAY) 'a virtual environment in $(VENV)'
	@sh tools/venv.sh $(VENV) $(PYTHON)
	$(SAY) 'a pip that knows dependency groups'
	@$(PIP) --upgrade 'pip>=25.1'  # the first that knows --group
	@touch $@

$(HAVE)-core: $(HAVE)-pip pyproject.toml $(NATIVE)
	$(SAY) 'the build tools'
	@$(PIP) --group build
	$(SAY) 'the libraries, and the core from its sources: about a minute'
	@$(PIP) --no-build-isolation --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

# The inner functions of the core, for tests/unit/core: the tests themselves run no compiler.
$(HAVE)-inner: $(HAVE)-core tests/support/inner.pyx tests/support/build_inner.py
	$(SAY) 'the inner functions of the core, for their tests'
	@$(PY) tests/support/build_inner.py
	@touch $@

$(HAVE)-dev: $(HAVE)-core $(HAVE)-inner
	$(SAY) 'the tools of the tests'
	@$(PIP) --group dev
	@touch $@

$(HAVE)-docs $(HAVE)-changelog $(HAVE)-wheels: $(HAVE)-%: $(HAVE)-core
	$(SAY) 'the tools of $*'
	@$(PIP) --group $*
	@touch $@

$(HAVE)-fuzz: $(HAVE)-dev
	$(SAY) 'the fuzzer of the Python targets'
	@$(PIP) --group fuzz || echo 'atheris has no wheel for this Python: its targets are left out'
	@touch $@

$(HAVE)-browser: $(HAVE)-dev
	$(SAY) 'what drives a browser'
	@$(PIP) --group browser || echo 'not to be had: the tests in a browser are skipped'
	@touch $@

$(HAVE)-bench: $(HAVE)-dev
	$(SAY) 'the peers of the benchmarks'
	@$(PIP) --group bench
	@$(PIP) --group bench-cxx || echo 'pysubnettree needs a C++ compiler (apt install g++): this report goes without it'
	@touch $@

# ---- other builds of the core: the same suite, the package taken from build/VARIANT/lib instead of src

debug: build/debug/.have ## the suite over a build that checks bounds and assertions
	$(call on,debug) $(PYTEST) -m 'not tooling' $(BY_FILE) -q $(ARGS)

# A leak check would count what CPython keeps for good, and Python's own allocator would hide overruns from the sanitizer.
# All processes of a test run under the sanitizers, except programs that the project does not build. A report ends its
# process, lies in REPORTS, whatever becomes of that process's standard error, and fails a test (tests/conftest.py).
sanitize: build/sanitize/.inner ## the suite under AddressSanitizer and UndefinedBehaviorSanitizer; ARGS=tests/readers: a part
	$(SAY) 'left out: tests/tooling, which runs no core of this build; tests marked memory, since a sanitizer takes memory' \
	  '    itself; and what the summary at the end lists with its reason'
	$(SANITIZED) -m 'not tooling and not memory' $(BY_FILE) $(ARGS)

sanitize-core: build/sanitize/.inner ## the part of it over the core and the series, in a minute or two
	$(SANITIZED) tests/unit/core tests/unit/series tests/unit/test_audit.py tests/system/test_sanitizers.py $(PARALLEL) $(ARGS)

REPORTS   := build/sanitize/reports
SANITIZED  = rm -rf $(REPORTS) && install -d -m 1777 $(REPORTS) && install -m 666 /dev/null $(REPORTS)/report.all && \
	  $(call on,sanitize) PYTHONMALLOC=malloc LD_PRELOAD="$$($(call runtime,libasan)) $$($(call runtime,libubsan))" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path=$(CURDIR)/$(REPORTS)/report \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$(CURDIR)/$(REPORTS)/report \
	  $(PYTEST) -o timeout=600 -o pythonpath='build/sanitize/lib .' -q

on      = env PYTHONPATH=$(CURDIR)/build/$(1)/lib INBOUND_AUDIT_CORE=$(CURDIR)/build/$(1)/lib
runtime = realpath "$$($(or $(CC),gcc) -print-file-name=$(1).so)"

# In the recipe, not exported for the target: what is made before it, the core in src above all, must not hear of it.
switch-debug    := INBOUND_AUDIT_DEBUG=1
switch-sanitize := INBOUND_AUDIT_SANITIZE=1

build/%/.have: $(HAVE)-dev $(NATIVE) $(PACKAGE)
	rm -rf build/$*
	$(switch-$*) $(PY) setup.py --quiet build --build-lib build/$*/lib
	touch $@

# The inner functions of the core as its tests call them, and what each Python process of that build imports first.
build/sanitize/.inner: build/sanitize/.have tests/support/inner.pyx tests/support/build_inner.py \
  tests/support/sanitized_process.py
	$(SAY) 'the inner functions of the core under sanitizers, for their tests'
	$(switch-sanitize) $(PY) tests/support/build_inner.py
	cp tests/support/sanitized_process.py build/sanitize/lib/sitecustomize.py
	touch $@

# ---- what is published

dist: $(HAVE)-dev ## the sdist, and the wheel built from that sdist, into dist/
	rm -rf dist
	$(PY) -m build --no-isolation

wheels: $(HAVE)-wheels ## a wheel per Python and C library for this machine, each tested, into dist/ (needs Docker)
	$(BIN)/cibuildwheel --output-dir dist

clean: ## remove all that this file made
	rm -rf $(VENV) build dist .bench src/*.egg-info src/inbound_audit/*.so tests/support/*.so
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
