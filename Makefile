# Everything is set up by itself, in .venv: `make demo` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-bench
JOBS ?= 6
# tests wait as much as they compute; and what pytest compiles of them is kept, whatever the shell says
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(JOBS) --dist worksteal

.PHONY: demo test lint audit bench soak lock clean

demo: $(READY)  ## start an SSH fleet on loopback and patch it
	$(BIN)/opsbook demo

test: $(READY) sshd browser  ## all tests but the long ones
	$(PYTEST)

lint: $(READY)  ## style, types and what is dangerous
	$(BIN)/ruff format --check src tests benchmarks .ci
	$(BIN)/ruff check src tests benchmarks .ci
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src

audit: $(READY)  ## known vulnerabilities of the dependencies; without a network it says that there was no audit
	$(BIN)/python .ci/audit.py

bench: $(READY) $(PEERS)/.ready sshd  ## speed, as ratios against peers in the same run; FLAGS=--quick for less
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/fanout.py $(FLAGS)
	$(BIN)/python benchmarks/archive.py

soak: $(READY) sshd  ## the long tests
	OPSBOOK_SEED=$${OPSBOOK_SEED:-$$(date +%s)} $(PYTEST) -m soak --timeout 3600
	$(BIN)/python tests/mutations.py

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(PEERS)/.ready: benchmarks/requirements.txt  # the peers, for `make bench` alone; one that is missing says so in its cell
	$(PYTHON) -m venv --clear $(PEERS)
	@echo '*' >$(PEERS)/.gitignore
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< && touch $@ \
	  || echo "note: the peers could not be installed" >&2

.PHONY: sshd
sshd:  # the tests run against a real sshd and a real sudo; Debian's are installed when they may be
	@PATH="$$PATH:/usr/sbin" && { command -v sshd && command -v sudo && command -v pkill; } >/dev/null || { \
	  command -v apt-get >/dev/null && test "$$(id -u)" = 0 && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openssh-server sudo procps >/dev/null; } || { \
	  echo "error: the tests need sshd and sudo; install the packages openssh-server, sudo and procps" >&2; exit 2; }

.PHONY: browser
browser:  # pages are looked at in a real one, which is installed where it may be; without it those tests are skipped
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  command -v apt-get && test "$$(id -u)" = 0 && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }; } >/dev/null \
	  || echo "note: no browser, and none could be installed: the tests that need one are skipped" >&2

lock:  ## pin every dependency, with hashes and without addresses
	uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --quiet --output-file requirements.lock
	uv pip compile benchmarks/requirements.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet --output-file benchmarks/requirements.txt

clean:
	rm -rf $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
