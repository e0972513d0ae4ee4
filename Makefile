# The two commands: `make bench` measures and writes a report; `make test` runs every check and test.
PYTHON ?= python3
BIN := .venv/bin
# Every arm of every burst is a new process: without bytecode each would compile its modules anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: bench test check coverage lock clean

bench: .venv/bench
	@$(BIN)/synapsed-bench run quick

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every branch of what plans and judges.
coverage: .venv/test
	$(BIN)/python -m pytest tests/harness/analyse tests/harness/plan tests/harness/measure/test_metrics.py tests/harness/measure/test_episodes.py tests/harness/gate/test_rules.py tests/harness/gate/test_two_arms.py tests/harness/gate/test_resample.py \
	  --cov=harness.analyse --cov=harness.measure.metrics --cov=harness.measure.episodes --cov=harness.plan --cov=harness.gate.rules --cov=harness.gate.resample --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

.venv/bench: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}; synapsed-bench needs 3.11 or newer (make PYTHON=python3.x ...)")'
	@echo "setting up .venv (once, about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

.venv/test: .venv/bench requirements-dev.lock
	@echo "adding what the tests need"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

# Set-up installs exactly what the locks name (--no-deps): pip may otherwise ask for an unpinned `package[extra]` and stop.
# Needs uv (pip install uv). Both files pin the same versions, with hashes and without the address of any index.
LOCK = uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header --no-annotate
lock:
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --upgrade -c requirements.lock --extra dev -o requirements-dev.lock

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
