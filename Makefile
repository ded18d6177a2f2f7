# `make demo` and `make test` set up and share the environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
OPTIMUM ?= .venv/share/optimum
TRANSFORMERS_JS := .venv/share/transformers.js

.PHONY: demo test optimum check format clean

demo: .venv/ready
	$(BIN)/pythia-quant run recipes/demo.yaml --out artifacts

test: check $(TRANSFORMERS_JS)
	$(BIN)/pytest

# optimum needs an older transformers, so its tests have an environment of their own.
optimum: .venv/ready
	$(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/python -m pip install --quiet optimum-onnx==0.1.0 optimum==2.1.0 transformers==4.57.6 \
		onnxruntime==1.31.1 torch==2.13.0
	PYTHIA_QUANT_OPTIMUM_PYTHON=$(abspath $(OPTIMUM))/bin/python $(BIN)/pytest tests/clients -k optimum

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first: with the pinned version installed, nothing else asks for another build of it.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("pythia-quant needs Python 3.11 or newer; try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

# Only the tests of transformers.js need it: where npm or the network is missing, they are skipped and say so. Install
# scripts are not run: what they would fetch is for CUDA.
$(TRANSFORMERS_JS): .venv/ready
	@if npm install --prefix $@.part --no-save --no-package-lock --no-audit --no-fund --ignore-scripts \
		--fetch-timeout=30000 --fetch-retries=0 @huggingface/transformers@4.3.1 >/dev/null 2>&1; \
	then rm -rf $@ && mv $@.part $@; \
	else rm -rf $@.part; echo 'transformers.js is not tested: npm is missing, or cannot install it'; fi

clean:
	rm -rf .venv artifacts .mypy_cache .ruff_cache .pytest_cache .hypothesis
