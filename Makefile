# One command each; `make` alone lists them. The first call makes .venv from requirements.lock, later calls only look at a stamp.

PYTHON ?= python3
PROFILE ?= demo
CHAPTERS ?=
ARGS ?=
PORT ?= 8000
# locked: every package by its hash, torch with CUDA. cpu: torch from PyTorch's CPU index, the rest by its hash.
TORCH ?= $(if $(wildcard .venv/ready-cpu),cpu,locked)

export SPIKINESS_HOME ?= $(CURDIR)/build
# Waiting threads sleep: beside a busy neighbour spinning ones cost several times the work. Read when torch is imported.
export OMP_WAIT_POLICY ?= PASSIVE

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := .venv/ready-$(TORCH)
# Wheels only, but for one small package (of Snakemake's) that comes as pure Python source.
WHEELS := --only-binary :all: --no-binary connection-pool
CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup book site publish test lint format new bench bench-unet bench-sweeps bench-detection \
	test-slurm serve lock clean clean-networks distclean

help:
	@echo "make book       run the chapters and build the book into build/PROFILE/html"
	@echo "                PROFILE=demo (default), smoke or paper; CHAPTERS=\"memorization hybrid\" for some of them"
	@echo "make site       build the online book from published/, training nothing"
	@echo "make publish    refresh published/ from finished paper-profile runs"
	@echo "make serve      show build/PROFILE/html at http://127.0.0.1:PORT (PROFILE=site for the online book; PORT=8000)"
	@echo "make test       run the tests (ARGS=\"-k theory\" goes to pytest)"
	@echo "make lint       ruff, contracts of imports, types of the science, notebooks without outputs, no leftovers"
	@echo "make format     mend what lint can mend: format the code, strip the notebooks"
	@echo "make new        write the skeleton of a chapter: CHAPTER=name"
	@echo "make bench      measure speed against the plain loop; make bench-unet: diffusion models against two libraries"
	@echo "make bench-detection  what a score of the detector costs beside a full pass and the local dimension"
	@echo "make bench-sweeps  what a batch costs beside the chapters it runs; 10,000 jobs; a driver killed and killed again"
	@echo "make test-slurm run a sweep on a real SLURM cluster of one host, made for it (root, Debian's packages)"
	@echo "make setup      only make the environment in .venv"
	@echo "make lock       resolve requirements.lock anew from pyproject.toml (needs uv; ARGS=--upgrade for newer versions)"
	@echo "make clean      remove runs, books and caches; trained networks stay, which cost hours"
	@echo "make clean-networks  remove trained networks and the samples drawn from them; make distclean: all of it and .venv"
	@echo
	@echo "PYTHON=python3.11 picks the interpreter, TORCH=cpu a torch without CUDA; both matter when .venv is made."

setup: $(READY)

# A stamp of this route means an environment to bring up to date in place; anything else (none, another route, a set-up cut short) is made anew.
$(READY): requirements.lock pyproject.toml
	@case "$(TORCH)" in locked|cpu) ;; *) echo "TORCH=$(TORCH): choose locked or cpu" >&2; exit 2;; esac
	@test -e $@ || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11" or 0)'
	test -e $@ || $(PYTHON) -m venv --clear .venv
ifeq ($(TORCH),cpu)
	$(BIN)/python tools/cpu_lock.py --rest requirements.lock > .venv/cpu.lock
	$(PIP) install --require-hashes $(WHEELS) -r .venv/cpu.lock
	$(PIP) install --no-deps --index-url $(CPU_INDEX) $$($(BIN)/python tools/cpu_lock.py --torch requirements.lock)
else
	$(PIP) install --require-hashes $(WHEELS) -r requirements.lock
endif
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

book: $(READY)
	$(BIN)/spikiness book --profile "$(PROFILE)" $(CHAPTERS)

site: $(READY)
	$(BIN)/spikiness site

publish: $(READY)
	$(BIN)/spikiness publish $(CHAPTERS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy src/spikiness
	$(BIN)/python tools/lint.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/lint.py --strip

new: $(READY)
	$(BIN)/python tools/new.py "$(CHAPTER)"

bench: $(READY)
	$(BIN)/python benchmarks/speed.py $(ARGS)

bench-unet: $(READY)
	$(BIN)/python benchmarks/unet.py $(ARGS)

bench-sweeps: $(READY)
	$(BIN)/python benchmarks/sweeps.py $(ARGS)

bench-detection: $(READY)
	$(BIN)/python benchmarks/detection.py $(ARGS)

test-slurm: $(READY)
	tests/slurm/test.sh $(BIN)/python

serve: $(READY)
	@test -e "$(SPIKINESS_HOME)/$(PROFILE)/html/index.html" || { echo "there is no $(PROFILE) book yet: make book PROFILE=$(PROFILE)" >&2; exit 2; }
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory "$(SPIKINESS_HOME)/$(PROFILE)/html" $(PORT)

lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 pyproject.toml --extra book --extra batch --extra test \
		--group pyproject.toml:build --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock $(ARGS)

# Networks and samples are found again by the digest of their code and data: they are never wrong, only large.
clean:
	test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name networks ! -name samples -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis .mypy_cache .import_linter_cache

clean-networks:
	rm -rf build/networks build/samples

distclean: clean clean-networks
	rm -rf build .venv src/spikiness.egg-info
