# Every target works from a fresh clone: it makes .venv, installs what is pinned in
# constraints.txt, builds the operator, and then does its work. Run again, it installs nothing.
#
#   make demo    segment pages, groups and photographs with the weights in the package
#   make test    the tests            make slow      those that take minutes
#   make bench   the benchmarks       make coverage  the tests, with line coverage
#   make lint    style and layout     make mutation  do the tests notice changed code?
#   make train   the nano model       make demo-photos  fine-tune on three photographs
#   make asan    the operator's tests under the address sanitizer
#
# PYTHON=python3.12 chooses the interpreter; DETECTRON2=upstream builds Detectron2's main branch.

PYTHON ?= python3
DETECTRON2 ?= release
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
STAMPS := $(VENV)/stamps
SOURCES := $(wildcard hipie/ops/csrc/*/* hipie/ops/csrc/*)

.PHONY: all demo demo-photos test slow coverage mutation bench lint train asan clean

all: $(STAMPS)/package

$(STAMPS)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12"; exit 1; }
	@echo "1/5 environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "no venv: install your system's python3-venv"; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/python constraints.txt
	@echo "2/5 PyTorch"
	@$(PIP) -c constraints.txt torch torchvision "setuptools<81" wheel ninja || \
		{ echo "PyTorch could not be installed: the lines above say why"; exit 1; }
	@touch $@

$(STAMPS)/requirements: $(STAMPS)/torch constraints.txt setup.py
	@echo "3/5 packages"
	@$(PY) install/requirements.py all | xargs $(PIP) -c constraints.txt || \
		{ echo "the packages could not be installed: the lines above say which"; exit 1; }
	@touch $@

$(STAMPS)/detectron2: $(STAMPS)/requirements install/detectron2.py
	@echo "4/5 Detectron2"
	@$(PY) install/detectron2.py $(if $(filter upstream,$(DETECTRON2)),--upstream)
	@touch $@

$(STAMPS)/package: $(STAMPS)/detectron2 setup.py setup_extension.py $(SOURCES)
	@echo "5/5 hipie and its operator"
	@$(PIP) --no-build-isolation --no-deps --editable . || \
		{ echo "the operator could not be built: a C++ compiler (g++ or clang) is needed"; exit 1; }
	@touch $@

demo: $(STAMPS)/package
	$(PY) demo.py --picture-book --output output/demo

test: $(STAMPS)/package
	$(PY) -m pytest

slow: $(STAMPS)/package
	$(PY) -m pytest -m slow --timeout 7200

coverage: $(STAMPS)/package
	$(PY) -m pytest --cov --cov-report term --cov-fail-under 85

mutation: $(STAMPS)/package
	$(PY) -m tests.mutation

lint: $(STAMPS)/requirements
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(STAMPS)/package
	for program in benchmarks/*.py; do $(PY) $$program || exit 1; done

train: $(STAMPS)/package
	$(PY) train_net.py --config-file configs/nano/hipie_nano_picturebook.yaml --resume

asan: $(STAMPS)/package
	$(PY) tests/ops/address_sanitizer.py

clean:
	rm -rf $(VENV) build *.egg-info hipie/ops/*.so
