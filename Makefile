# Every target sets up .venv in this checkout when it is absent or out of date, and reuses it otherwise.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
EXTRAS := face,cluster,export,hdf5,video,federated,tensorboard,dev
RUN := $(VENV)/bin/python

.PHONY: setup demo test lint prove bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mien needs Python 3.11 or newer: name one with make PYTHON=python3.11"; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(READY)
	$(VENV)/bin/mien demo --out demo

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

# Long: several minutes for each method; results/proofs is committed. DATA=DIR runs it on real faces.
prove: $(READY)
	$(VENV)/bin/mien prove acmf --jobs 2 $(if $(DATA),--data $(DATA))

# Long: about two hours on a quiet machine; results/bench is committed. ONLY=gradcam runs one.
bench: $(READY)
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),bench]'
	@for file in $(or $(ONLY:%=benchmarks/%.py),$(wildcard benchmarks/[!_]*.py)); do \
		echo "$$file"; OMP_NUM_THREADS=1 $(RUN) $$file || exit 1; done
	$(RUN) tools/tables.py

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
