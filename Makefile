# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STORE ?= results/demo/store
FIGURES ?= results/demo/figures
PAPER ?= results/paper
TESTS ?= tests
VECTORS ?= ../shared/parity
# Set up once, and again when the list of packages changes.
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-clip figures paper verdicts test test-all test-versions audit lint format hooks parity benchmark torture train-patchwork docs notebooks clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv and install everything into it

$(READY): pyproject.toml
	@echo "-- setting up .venv (a minute or two, about 6 GB with torch's CUDA build)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group dev
	@# uv compiles nothing; where Python may write no bytecode, each command would compile anew.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import open_clip, wandb, seaborn; \
	    import sclip_lab.cli.evaluate, sclip_lab.report.page, sclip_lab.report.store_report"
	@touch $(READY)

demo: $(READY) ## the fused sweep on the embedded world, then its report
	@echo "-- every variant of the card, one pass over 64 patchwork scenes"
	$(BIN)/python experiments/evaluate.py -m experiment=demo paths.store=$(STORE)
	@$(MAKE) --no-print-directory figures

figures: $(READY) ## the report of STORE (default: the demo's) into FIGURES
	$(BIN)/sclip-lab report $(STORE) --out $(FIGURES)
	@echo "-- open $(FIGURES)/index.html; then README.md, Recipes"

paper: $(READY) ## the paper study by study on the embedded world: results/paper/index.html
	$(BIN)/sclip-lab paper $(STUDIES) --out $(PAPER) $(KEYS)
	@echo "-- open $(PAPER)/index.html"

verdicts: paper ## docs/verdicts.md anew, from the paper's studies on the embedded world
	cp $(PAPER)/verdicts.md docs/verdicts.md

demo-clip: $(READY) ## the same with CLIP's weights on 20 photos, for machines that reach both
	$(BIN)/sclip-lab data coco_panoptic20
	$(BIN)/sclip-lab paper main alternatives layers attention qualitative --out results/demo-clip \
	    backbone=ViT-B-16-quickgelu pretrained=openai dataset=coco_panoptic20 $(KEYS)

test: $(READY) ## the default tests: no network, no GPU, a few minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m "not slow and not gpu and not network" $(TESTS)

test-all: $(READY) ## all tests, slow, gpu and network ones included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto $(TESTS)

test-versions: ## the default tests with the oldest and the newest versions; WHICH=oldest|newest|all
	tools/test_versions.sh $(or $(WHICH),all)

audit: $(READY) ## known vulnerabilities of the installed packages; says so where it cannot ask
	@tools/audit.sh

lint: $(READY) ## ruff, formatter, type checker, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## apply the formatter and the linter's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(READY) ## check every commit as `make lint` does
	$(BIN)/pre-commit install

parity: $(READY) ## every comparison with official outputs on the set in VECTORS, one line a file
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.parity_report $(VECTORS)

benchmark: $(READY) ## measure against a plain reference loop; QUICK=1 for the main ratios
	$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick) --out docs

torture: $(READY) ## kills, flips and malformed input on purpose (10 to 30 minutes): docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.torture --out docs

train-patchwork: $(READY) ## train the embedded backbone again (75 minutes on one core, resumable)
	$(BIN)/python -m experiments.patchwork.train

docs: $(READY) ## the tables in docs/ that are generated from conf/ and from what the libraries know
	$(BIN)/python -m analysis.methods
	$(BIN)/python -m analysis.protocols
	$(BIN)/python -m analysis.diagnostics
	$(BIN)/sclip-lab networks --markdown docs/networks.md >/dev/null

notebooks: $(READY) ## analysis/notebooks/*.ipynb from the .py beside them, and their pages in docs/notebooks
	$(BIN)/python -m jupytext --quiet --update --set-kernel python3 --opt cell_metadata_filter=tags \
	    --to ipynb analysis/notebooks/*.py
	rm -rf docs/notebooks
	@# Outputs are taken out by their tags after the run; nbconvert would do it before.
	PYTHONWARNINGS="ignore:IProgress not found" $(BIN)/python -m nbconvert --execute --to notebook \
	    --output-dir results/notebooks analysis/notebooks/*.ipynb
	$(BIN)/python -m nbconvert --to markdown \
	    --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_all_outputs_tags="{'page'}" \
	    --output-dir docs/notebooks results/notebooks/*.ipynb

clean: ## remove the environment and everything computed
	rm -rf .venv .versions results outputs multirun
