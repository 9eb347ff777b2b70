# `make demo` and `make test` are all there is to do on a machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NEXT := $(VENV)-transformers5
MLSERVER := $(VENV)-mlserver
GENAI := $(VENV)-genai
LOWEST := $(VENV)-lowest
# Tests run in this many processes, each file in one of them, in the order of tests/conftest.py.
JOBS ?= 2
PYTEST := -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Interpreters to test the runtime on, as far as this machine has them, under pyenv or on the PATH.
INTERPRETERS ?= 3.10 3.11 3.12 3.13
python_of = $(firstword $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python) $(shell command -v python$(1)))
OLDEST := $(or $(call python_of,3.10),$(PYTHON))
MADE := $(VENV)-made

.PHONY: demo test test-transformers5 test-lowest test-interpreters test-fast faults lint format figures wire clean

demo: $(INSTALLED)
	$(BIN)/python -m benchmarks demo --out runs/demo --overwrite

test: lint $(MLSERVER)/.installed
	$(BIN)/python $(PYTEST) --durations=30

# The chain on the next major version of transformers, where optimum's exporter does not exist yet.
test-transformers5: $(NEXT)/.installed
	$(NEXT)/bin/python $(PYTEST) -m "not once" tests/train tests/export tests/cloud_stub

# The runtime without torch at the lowest versions that it allows, and on the lowest Python if it is here.
test-lowest: $(LOWEST)/.installed $(MADE)/.made
	GATEKEEPER_MADE=$(abspath $(MADE)) $(LOWEST)/bin/python $(PYTEST) tests/edge_runtime

# The runtime on every interpreter of this machine, with the newest libraries for each.
test-interpreters: $(foreach v,$(INTERPRETERS),$(if $(call python_of,$(v)),test-on-$(v),skip-$(v)))

test-on-%: $(VENV)-%/.installed $(MADE)/.made
	GATEKEEPER_MADE=$(abspath $(MADE)) $(VENV)-$*/bin/python $(PYTEST) -m "not slow and not once" tests/edge_runtime

skip-%:
	@echo "skipped: this machine has no Python $*"

test-fast: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m "not slow"

# Every fault ever found here, by the tests that docs/faults.md names.
faults: $(INSTALLED) $(MLSERVER)/.installed
	$(BIN)/python $(PYTEST) $$($(BIN)/python tests/tools/faults.py)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(INSTALLED) $(MLSERVER)/.installed $(GENAI)/.installed
	$(BIN)/python -m benchmarks overhead
	$(BIN)/python -m benchmarks linear-loss
	$(BIN)/python -m benchmarks decoding
	$(BIN)/python -m benchmarks runtime
	$(BIN)/python -m benchmarks cloud
	$(BIN)/python -m benchmarks generation

wire: $(INSTALLED)
	$(BIN)/python tests/tools/generate_wire.py

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,dev)

$(NEXT)/.installed: pyproject.toml constraints-transformers5.txt
	$(call install,$(NEXT),constraints-transformers5.txt,cpu$(comma)bench$(comma)test)

# MLServer as its users run it: without this project, and with what it asks for itself.
$(MLSERVER)/.installed: constraints-mlserver.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13) and "MLServer needs Python 3.12 or older: make PYTHON=python3.11")'
	test -x $(MLSERVER)/bin/python || $(PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $< mlserver onnxruntime pillow
	touch $@

# The extras of a device and of a server without torch, and what the runtime's tests need beside them.
RUNTIME := -e '.[cpu,image,text,serve]' onnx pandas pyarrow scikit-learn hypothesis pytest pytest-timeout pytest-xdist tritonclient trustme
$(LOWEST)/.installed: constraints-lowest.txt pyproject.toml
	rm -rf $(LOWEST)
	$(OLDEST) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $< $(RUNTIME)
	touch $@

.PRECIOUS: $(VENV)-3.%/.installed
$(VENV)-3.%/.installed: pyproject.toml
	rm -rf $(VENV)-3.$*
	$(call python_of,3.$*) -m venv $(VENV)-3.$*
	$(VENV)-3.$*/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) $(RUNTIME)
	touch $@

# Models and bundles of the tests, which need torch to be made.
$(MADE)/.made: tests/tools/made.py $(INSTALLED)
	rm -rf $(MADE)
	mkdir $(MADE)
	$(BIN)/python $< $(MADE)
	touch $@

# onnxruntime-genai as its users run it. Its builder of graphs wants torch and transformers 5, which are
# in the environment of these.
$(GENAI)/.installed: constraints-genai.txt $(NEXT)/.installed
	test -x $(GENAI)/bin/python || $(PYTHON) -m venv $(GENAI)
	$(GENAI)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $< onnxruntime-genai
	touch $@

# 1: virtual environment, 2: constraints, 3: extras. torch comes first and alone: pip then keeps the
# build it finds there instead of a CUDA one.
comma := ,
define install
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) $$(grep '^torch==' $(2))
$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(2) -e '.[$(3)]'
touch $(1)/.installed
endef

clean:
	rm -rf $(VENV) $(VENV)-3.* $(NEXT) $(MLSERVER) $(GENAI) $(LOWEST) $(MADE) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
