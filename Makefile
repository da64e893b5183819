# Two commands matter: `make demo` and `make test`. Each builds its own environment, once, and again
# when the packaging or the C++ changes. Override on the command line, for instance
#   make demo PYTHON=python3.13 TORCH=torch==2.14.0 PIP_FLAGS="--index-url ..."
PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_FLAGS ?=
PYTEST_FLAGS ?=

DEMO := .venv/bin/python
TEST := .venv-test/bin/python
# One thread in each process: teams of threads on the same cores spend their time waiting. In the
# order of folders: the files with the fewest tests, which would come last, take longest.
PYTEST := OMP_NUM_THREADS=1 $(TEST) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BUILT_FROM := pyproject.toml setup.py $(shell find csrc -type f)

.PHONY: help demo demo-compare doctor-bench bench-gate test test-full kernels-report cuda gpu sanitize lint check-machine clean
.DELETE_ON_ERROR:

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready  ## fine-tune a real 4-bit model and print base against tuned
	$(DEMO) -m qlora.demo

demo-compare: .venv/ready  ## QLoRA against 16-bit LoRA on the demo task, 3 seeds each
	$(DEMO) -m qlora.demo.compare

doctor-bench: .venv-test/ready  ## faults put into 60 runs on purpose, and what `qlora doctor` names
	OMP_NUM_THREADS=1 $(TEST) -m bench doctor

# GPU kernels are gated by kernels-report, here two configurations of each.
bench-gate: KERNELS := --sample
bench-gate: kernels-report  ## instructions of the kernels against the committed counts; needs valgrind; UPDATE=1 sets them
	OMP_NUM_THREADS=1 $(TEST) -m bench gate $(if $(UPDATE),--update)

# All configurations take minutes: tests compile two of each kernel, `make kernels-report` all.
test: KERNELS := --sample
test: lint kernels-report  ## lint and every test that needs no GPU, under 15 minutes on 2 cores
	$(PYTEST) -m "not slow" $(PYTEST_FLAGS)

test-full: lint  ## the same and the slow tests
	$(PYTEST) $(PYTEST_FLAGS)

kernels-report: .venv-test/ready  ## what the compiler made of each GPU kernel, against its limits; UPDATE=1 sets them
	OMP_NUM_THREADS=1 $(TEST) -m bench kernels-report $(KERNELS) $(if $(UPDATE),--update)

cuda: .venv-test/ready  ## the CUDA kernels for three architectures, and what nvcc made of them; needs nvcc, no GPU
	$(TEST) -m bench kernels-report --backend cuda --output build/cuda_kernels.json

sanitize: .venv-test/ready  ## the native tests with the kernels under address and undefined-behaviour sanitizers
	.ci/sanitize $(CURDIR)/$(TEST)

# With the Python that it is called with, as it is: no environment, no network.
GPU_DEVICE ?= gpu
gpu:  ## on a machine with a GPU, in 10 minutes: build, GPU tests, benchmarks; into OUT or bench/results/<gpu>
	PYTHONPATH="$(CURDIR):$(CURDIR)/python:$$PYTHONPATH" $(PYTHON) -m bench gpu --device $(GPU_DEVICE) $(if $(STAGES),--stages $(STAGES))

lint: .venv-test/ready  ## ruff, mypy, clang-format, import arrows, spelling
	$(TEST) -m ruff check
	$(TEST) -m mypy
	(find csrc -type f -not -name nvcc.options; find bench -name '*.cpp') | xargs .venv-test/bin/clang-format --dry-run --Werror
	.venv-test/bin/lint-imports --no-logo
	.venv-test/bin/typos

clean:  ## remove the environments, builds and caches; runs/ stays
	rm -rf .venv .venv-test build dist *.egg-info .*_cache .hypothesis qlora_kernels/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/ready: EXTRAS := demo
.venv-test/ready: EXTRAS := test,lint

# Editable, so that the sources are what runs; the extension is removed first, so that a stale one cannot.
.venv/ready .venv-test/ready: $(BUILT_FROM) | check-machine
	rm -f $@ qlora_kernels/*$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
	$(PYTHON) -m venv $(@D)
	@echo "installing torch, then qlora_kernels[$(EXTRAS)] into $(@D): minutes, the first time"
	$(@D)/bin/python -m pip install --quiet $(PIP_FLAGS) "$(TORCH)"
	$(@D)/bin/python -m pip install --quiet $(PIP_FLAGS) --editable ".[$(EXTRAS)]"
	touch $@

# What no package brings: one clear line each.
need = $(1) >/dev/null 2>&1 || { echo "make: $(2)" >&2; exit 1; }

check-machine:
	@$(call need,$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))',Python 3.11 or newer is needed: PYTHON=python3.13 names another)
	@$(call need,$(PYTHON) -m ensurepip --version,$(PYTHON) lacks ensurepip (on Debian and Ubuntu: apt install python3-venv))
	@$(call need,$(PYTHON) -c 'import os; import sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")',$(PYTHON) lacks Python.h (on Debian and Ubuntu: apt install python3-dev))
	@$(call need,echo 'int main() {}' | $(CXX) -x c++ -fsyntax-only -,a C++ compiler is needed: $(CXX) does not compile (on Debian and Ubuntu: apt install g++))
