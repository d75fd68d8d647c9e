# Everything from a fresh clone, with only Python (>= 3.11) and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
export HF_HUB_OFFLINE = 1
# With the TPU's compiler: what is compiled for TPU is a part of the proof.
TESTED := $(VENV)/installed-test,tpu-aot
# And a browser, some 670 MB, in which the page of weights is tried.
TESTED_SLOW := $(VENV)/installed-test,tpu-aot,browser

# And the ONNX exporter and runtime.
TESTED_ALL := $(VENV)/installed-test,tpu-aot,browser,onnx

# Set NEWEST_PYTHON to name the Python of `make test-newest`; by default it is looked for, beside pyenv's.
NEWEST_PYTHON = $(shell for each in python3.13 python3.12 \
	$$(ls -r $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[23].*/bin/python 2>/dev/null); do \
	"$$each" -c "import ensurepip, venv" 2>/dev/null && echo "$$each" && break; done)
FLOORS_PYTHON ?= python3.11
NEWEST := .venv-newest
FLOORS := .venv-floors

.PHONY: help demo check lint types test test-quick test-shapes test-slow test-newest test-floors test-all survey fuzz prove-families docs notebooks format clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# One stamp for each set of extras: installed once, again when the requirements change.
$(VENV)/installed-%: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

demo: $(VENV)/installed-demo  ## Run a pretrained transformer in both frameworks, compare them and draw a picture
	$(BIN)/attention-bridge demo

check: lint types  ## Check lint, format and types

lint: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m parity_tests.helpers.english

types: $(TESTED)
	$(BIN)/mypy

# How quickly JAX compiles in tests is said in parity_tests/conftest.py, which these do not load.
QUICK := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
	--xla_cpu_parallel_codegen_split_count=1
test-floors: export XLA_FLAGS = $(QUICK) --xla_cpu_use_fusion_emitters=false
prove-families: export XLA_FLAGS = $(QUICK) --xla_cpu_use_fusion_emitters=false
test-newest: export XLA_FLAGS = $(QUICK)  # jaxlib 0.12 ends the process at a flag it does not know
test: lint  ## Run `check` and the essential tests: under ten minutes on two cores
	$(MAKE) --no-print-directory --jobs=2 types test-quick

test-quick: $(TESTED)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# Every annotated shape of the mirrors is checked at each call, which doubles the time of a test.
SHAPES := --jaxtyping-packages=torch_attention,jax_attention,beartype.beartype
test-shapes: $(TESTED)  ## Run the tests of every mechanism and of models with the shapes of all calls checked
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(SHAPES) parity_tests/structure/test_shape_checks.py \
		$(addprefix parity_tests/mechanisms/test_,battery.py caches.py frame.py) \
		$(addprefix parity_tests/models/test_,language_model.py task_models.py vision_hierarchy.py)

test-slow: $(TESTED_SLOW)  ## Run the slow tests
	$(BIN)/python -m pytest -m "slow and not survey" -n 2 --dist loadgroup

survey: $(TESTED_ALL)  ## Compile, export, transform and count every mechanism; too long for CI
	$(BIN)/python -m pytest -m survey -n 2 --dist loadgroup

test-newest:  ## Test the JAX mirror with the newest JAX, Flax and NumPy, on Python 3.13 or 3.12
	@python="$(NEWEST_PYTHON)"; if [ -z "$$python" ]; then \
		echo "SKIPPED test-newest: no python3.13 or python3.12 is found, so nothing was tested with the newest JAX."; \
	else set -e; rm -rf $(NEWEST); "$$python" -m venv $(NEWEST); \
		$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e ".[jax]" \
			beartype chex pytest pytest-xdist; \
		$(NEWEST)/bin/python -m pip list --disable-pip-version-check 2>/dev/null \
			| grep -E "^(jax|jaxlib|flax|numpy|optax|chex|einops) "; \
		$(NEWEST)/bin/python -m pytest --noconftest -n 2 -W error::DeprecationWarning -m "" parity_tests/mechanisms/test_jax_alone.py; \
	fi

test-floors:  ## Test with the lowest versions that pyproject.toml allows, on Python 3.11
	@if ! $(FLOORS_PYTHON) -c "import ensurepip, venv" 2>/dev/null; then \
		echo "SKIPPED test-floors: no $(FLOORS_PYTHON) is found, so the lower bounds of pyproject.toml were not tried."; \
	else set -e; rm -rf $(FLOORS); $(FLOORS_PYTHON) -m venv $(FLOORS); \
		$(FLOORS)/bin/python -m parity_tests.helpers.floors pins > $(FLOORS)/pins.txt; \
		$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check -r $(FLOORS)/pins.txt; \
		$(FLOORS)/bin/python -m parity_tests.helpers.floors smoke; \
	fi

test-all: test test-shapes test-slow test-floors test-newest  ## Run all tests except `survey`

DRAWS ?= 200
prove-families: $(TESTED)  ## Prove all odd configurations and 200 random draws of every family: docs/families.md; save every class again
	$(BIN)/python -m parity_tests.helpers.prove_families --draws $(DRAWS)
	$(BIN)/python -m parity_tests.helpers.saved_classes

SEED     ?= $(shell date +%s)
COUNT    ?= 100000
CHILDREN ?= 2000
fuzz: $(TESTED)  ## Read damaged files of every format, at most 30 minutes; options SEED=, COUNT=, CHILDREN=
	$(BIN)/python -m parity_tests.helpers.fuzz --seed $(SEED) --count $(COUNT) --children $(CHILDREN)

docs: $(VENV)/installed-bench,onnx,tpu-aot  ## Repeat all measurements and rewrite docs/
	$(BIN)/attention-bridge list --markdown > docs/catalogue.md
	$(BIN)/python -m attention_bridge.pages.rosetta > docs/rosetta.md
	$(BIN)/python -m parity_tests.helpers.readme_families
	$(BIN)/python -m parity_tests.peers > docs/peers.md.new
	mv docs/peers.md.new docs/peers.md
	$(BIN)/python -m parity_tests.helpers.loading_page 2> /dev/null > docs/loading.md.new
	mv docs/loading.md.new docs/loading.md
	$(BIN)/attention-bridge parity --all --json > docs/proofs.json.new
	$(BIN)/python -m attention_bridge.pages.parity docs/proofs.json.new > docs/parity.md.new
	mv docs/parity.md.new docs/parity.md
	$(BIN)/python -m attention_bridge.pages.proofs docs/proofs.json.new > attention_bridge/data/proofs.json.new
	mv attention_bridge/data/proofs.json.new attention_bridge/data/proofs.json
	rm docs/proofs.json.new
	$(BIN)/python -m attention_bridge.pages.uses > docs/uses.md.new
	mv docs/uses.md.new docs/uses.md
	$(BIN)/attention-bridge demo --figure docs/attention-demo.png
	$(BIN)/python -m benchmarks.linear --markdown > docs/linear.md.new
	mv docs/linear.md.new docs/linear.md
	$(BIN)/python -m benchmarks.growth > docs/growth.md.new
	mv docs/growth.md.new docs/growth.md
	$(BIN)/python -m benchmarks.precision > docs/precision.md.new
	mv docs/precision.md.new docs/precision.md
	$(BIN)/python -m benchmarks.derivatives > docs/derivatives.md.new
	mv docs/derivatives.md.new docs/derivatives.md
	$(BIN)/python -m benchmarks.tpu > docs/tpu.md.new
	mv docs/tpu.md.new docs/tpu.md
	$(BIN)/python -m benchmarks.sharding > docs/sharding.md.new
	mv docs/sharding.md.new docs/sharding.md
	$(BIN)/python -m benchmarks.attention --markdown > docs/performance.md.new
	mv docs/performance.md.new docs/performance.md

notebooks: $(TESTED)  ## Build examples/notebooks/*.ipynb from the .py files beside them
	$(BIN)/jupytext --quiet --to ipynb --update examples/notebooks/*.py

format: $(TESTED)  ## Format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove environments, builds and caches
	rm -rf $(VENV) $(NEWEST) $(FLOORS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
