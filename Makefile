# All that is needed beforehand is Python (3.10 or newer) and make. Every target prepares .venv by itself.
#
#   make book        execute the notebooks that changed, build the pages      make test       all tests
#   make serve       the book on a local port                                 make pdf        article and book as PDFs
#   make notebooks   execute all notebooks                                    make soak       the long tests
#   make lint        ruff and pyright                                         make clean      drop what was built
#   make links      check every external link
#   make reproduce   train what has no record yet, MINUTES=60 at most         make tables     tables from records
#
# CONSTRAINTS=constraints.txt installs the exact versions that the book was last built with.

PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 60
CONSTRAINTS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book notebooks pages scripts models lint test soak reproduce tables serve serve-built pdf links clean
.DEFAULT_GOAL := book

$(READY): requirements.txt pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10; name a newer one: make PYTHON=…" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) can't make a virtual environment; Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing what requirements.txt names into $(VENV): some minutes and about 5 GB the first time"
	@$(BIN)/python -m pip install --quiet -r requirements.txt $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	@touch $@

book: $(READY) scripts models
	@$(BIN)/python book/tools/execute.py
	@$(MAKE) --no-print-directory pages
	@echo "the book is there: open _build/html/index.html, or type make serve"

notebooks: $(READY)
	@$(BIN)/python book/tools/execute.py --all

# The scripts of the pages, in exact versions. Without npm, the pages take them from public networks.
scripts:
	@test book/node_modules/.package-lock.json -nt book/package-lock.json || npm ci --prefix book --silent || { \
	  echo "npm is missing or has no network: the pages will take their scripts from public networks (CDN)" >&2; \
	  test -z "$$E2VIT_REQUIRE_ALL"; }

# The networks of the live page, exported from their checkpoints.
models: $(READY) scripts
	@$(BIN)/python book/tools/live.py

# --all: an incremental build would forget the warnings of pages that did not change.
pages: $(READY)
	@$(BIN)/jupyter-book build . --all -W -n --keep-going --quiet

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

test: $(READY) scripts models
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --nbmake 

soak: $(READY)
	@$(BIN)/python -m pytest -m soak tests

reproduce: $(READY)
	@$(BIN)/python -m e2vit run --missing --budget-minutes $(MINUTES)
	@$(MAKE) --no-print-directory tables
	@$(BIN)/python -m e2vit status

# After new records: their exactness is measured, then the tables of README.md and of the pages are written.
tables: $(READY)
	@$(BIN)/python benchmarks/throughput.py --refresh
	@$(BIN)/python book/tools/tables.py
	@$(BIN)/python book/tools/weights.py

serve: book serve-built

serve-built:
	@mkdir -p _build
	@echo "the book is at http://127.0.0.1:$(PORT)/ until Ctrl+C"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html 2> _build/serve.log \
	  || { tail -n 1 _build/serve.log >&2; exit 1; }

pdf: book
	@$(BIN)/python book/tools/pdf.py
	@$(MAKE) --no-print-directory pages

links: $(READY)
	@$(BIN)/jupyter-book build . --builder linkcheck --quiet

clean:
	rm -rf _build book/_static/vendor book/node_modules .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
