# Every target works from a fresh clone: it makes .venv, installs the versions of constraints.txt,
# builds the operator, and then does its work. A second run installs nothing.
#
#   make demo    segment images and groups with the weights in the package
#   make test    the tests            make slow         those that take minutes
#   make bench   the benchmarks       make coverage     the tests, with line coverage
#   make lint    style and types      make mutation     mutation testing of losses and metrics
#   make train-nano  train the nano model; resumes from its last checkpoint
#   make demo-photos overfit three annotated photographs
#   make ray     the tests of clusters, with Ray in an environment of its own
#   make asan    the operator's tests under the address sanitizer
#   make wheels  source distribution and wheel of hipie-ops, in dist/
#   make test-page   the page in chromium, with axe-core; it needs chromium and npm
#   make docs    the documentation site, output/site/index.html; it needs npm
#   make notebooks   run the notebooks
#
# PYTHON=python3.12 selects the interpreter, VENV=folder the environment, WORKERS=2 the number of
# test processes, WHEELS=--cuda adds CUDA kernels to the wheel, and DETECTRON2=upstream builds Detectron2's main branch instead of installing the
# copy on the package index.

PYTHON ?= $(shell sh install/find_python.sh)
DETECTRON2 ?= index
VENV ?= .venv
WORKERS ?= auto
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
DONE := $(VENV)/done
SOURCES := $(wildcard hipie/ops/csrc/* hipie/ops/csrc/*/*)
NANO := configs/nano/hipie_nano_picturebook.yaml
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: install demo demo-photos test slow coverage mutation bench lint train-nano asan \
	ray wheels test-page docs notebooks clean
.DELETE_ON_ERROR:

install: $(DONE)/package

$(DONE)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found: install one, or run \
	make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: make PYTHON=python3.12"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
		{ echo "There is no C++ compiler: install g++ or clang, or set CXX to yours"; exit 1; }
	@echo "1/5 environment in $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
		{ echo "The environment could not be made: install your system's python3-venv"; exit 1; }
	@mkdir -p $(DONE) && touch $@

$(DONE)/torch: $(DONE)/python constraints.txt
	@echo "2/5 PyTorch (some gigabytes: a minute or more)"
	@$(PIP) -c constraints.txt torch torchvision numpy setuptools wheel ninja || \
		{ echo "Step 2, PyTorch, failed for the reason above; fix it and run make again"; exit 1; }
	@touch $@

$(DONE)/requirements: $(DONE)/torch constraints.txt setup.py install/requirements.py
	@echo "3/5 packages"
	@$(PY) install/requirements.py all | xargs $(PIP) -c constraints.txt && \
		$(PIP) --no-deps -c constraints.txt panopticapi-lite || \
		{ echo "Step 3, packages, failed for the package named above; fix it and run make again"; exit 1; }
	@touch $@

$(DONE)/detectron2: $(DONE)/requirements install/get_detectron2.py
	@echo "4/5 Detectron2"
	@$(PY) install/get_detectron2.py $(if $(filter upstream,$(DETECTRON2)),--upstream)
	@touch $@

$(DONE)/package: $(DONE)/detectron2 setup.py setup_extension.py $(SOURCES)
	@echo "5/5 hipie and its operator"
	@$(PIP) --no-build-isolation --no-deps --editable . || \
		{ echo "Step 5, hipie, failed for the reason above; the operator needs a C++17 \
	compiler. Fix it and run make again"; exit 1; }
	@touch $@

demo: $(DONE)/package
	$(PY) demo.py --examples --output output/demo --overwrite

demo-photos: $(DONE)/package
	$(PY) datasets/prepare_photos.py
	$(PY) train_net.py --config-file configs/nano/hipie_nano_three_photos.yaml --resume

test: $(DONE)/package
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 4 --durations 10

slow: $(DONE)/package
	$(PY) -m pytest -m slow --timeout 7200

coverage: $(DONE)/package
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 4 --cov --cov-report term --cov-report xml:output/coverage.xml \
		--cov-fail-under 85

mutation: $(DONE)/package
	$(PY) tests/mutation.py --at-least 75

lint: $(DONE)/requirements
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m bandit --quiet --recursive --configfile pyproject.toml \
		hipie projects datasets install *.py
	$(PY) install/audit_requirements.py
	$(PY) -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(PY) -m check_jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(PY) -m check_jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(PY) -m check_jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(PY) -m check_jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# Ray and the stand-in for S3 are packages that nothing else needs: what they bring changes no version.
$(DONE)/ray: $(DONE)/package constraints.txt setup.py install/requirements.py
	@echo "Ray in $(VENV)/ray, which sees the packages of $(VENV)"
	@$(PY) -m venv $(VENV)/ray
	@$(PY) -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' > \
		"$$($(VENV)/ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hipie.pth"
	@$(PY) install/requirements.py ray ray_test | \
		xargs $(VENV)/ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
	@touch $@

ray: $(DONE)/ray
	PYTHONPATH=$(CURDIR) $(VENV)/ray/bin/python -m pytest -m "slow or not slow" --timeout 1800 tests/distributed

bench: $(DONE)/package
	$(PY) benchmarks/ms_deform_attn.py
	for question in published stages expressions; do \
		$(PY) benchmarks/hipie.py $$question || exit 1; done
	$(PY) benchmarks/refersam.py
	$(PY) benchmarks/grser.py
	for part in masks names prompts fusion; do \
		$(PY) benchmarks/open_vocabulary.py $$part || exit 1; done
	$(PY) benchmarks/training_free.py
	$(PY) benchmarks/clicks_and_examples.py
	$(PY) benchmarks/encode_once.py
	$(PY) benchmarks/throughput.py
	$(PY) benchmarks/cluster_simulation.py
	$(PY) benchmarks/data.py
	$(PY) benchmarks/postprocessing.py
	$(PY) benchmarks/training_step.py
	$(PY) benchmarks/activation_memory.py
	$(PY) benchmarks/memory.py --records 100000
	$(PY) benchmarks/patched_transformers.py
	$(PY) benchmarks/picturebook.py --pages 40
	for figure in agreement speed; do \
		$(PY) benchmarks/precision.py $$figure --count 10 || exit 1; done
	$(PY) benchmarks/value_projections.py
	$(PY) benchmarks/start_up.py
	$(PY) benchmarks/wait_policy.py
	$(PY) benchmarks/exported.py
	$(PY) benchmarks/compiled.py
	$(PY) benchmarks/peers.py
	$(PY) benchmarks/text_image_similarity.py --images 40 PICTUREBOOK.VAL_PAGES 40

train-nano: $(DONE)/package
	$(PY) train_net.py --config-file $(NANO) --resume

asan: $(DONE)/package
	$(PY) tests/ops/address_sanitizer.py

wheels: $(DONE)/requirements
	$(PY) install/build_wheels.py --output dist $(WHEELS)

# What only one target needs is installed by it.
$(DONE)/docs $(DONE)/notebooks: $(DONE)/%: $(DONE)/package constraints.txt
	@echo "packages of make $*"
	@$(PY) install/requirements.py $* | xargs $(PIP) -c constraints.txt || \
		{ echo "The packages of make $* failed for the reason above; fix it and run make again"; exit 1; }
	@touch $@

test-page: $(DONE)/package
	npm ci --prefix tests/app --no-fund --no-audit
	$(PY) -m pytest -m slow tests/app --timeout 1200

docs: $(DONE)/docs
	$(PY) docs/site/get_scripts.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	$(PY) docs/site/check_site.py output/site

notebooks: $(DONE)/notebooks
	$(PY) -m pytest --nbmake --nbmake-timeout 300 -p no:cacheprovider notebooks

clean:
	rm -rf $(VENV) build hipie.egg-info packages/*/*.egg-info hipie/ops/*.so
