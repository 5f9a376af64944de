# Two commands: `make reproduce` and `make test`. `make help` lists the rest.

PRESET ?= mini
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTHON ?= $(shell command -v python3.11 || command -v python3)

# Where pip finds torch. A machine without an NVIDIA driver takes the CPU build; set TORCH_INDEX= (empty) for the
# package index's own build with CUDA, or name another index.
ifeq ($(shell command -v nvidia-smi),)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
else
TORCH_INDEX ?=
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
# Named after what it installs and where torch comes from: a change of a pin or of TORCH_INDEX installs again, nothing else does.
INDEX := $(shell printf %s '$(TORCH_INDEX)' | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)-$(INDEX)
BOOK_STAMP := $(VENV)/.book-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
# pip takes the CUDA build of the package index where it does not reach the CPU index. Read, not imported: the dependencies come later.
CPU_TORCH := import importlib.util as u, runpy, sys; at = u.find_spec("torch").submodule_search_locations[0]; \
cuda = runpy.run_path(at + "/version.py")["cuda"]; sys.exit(cuda and "error: pip found no CPU build of torch at $(TORCH_INDEX) and took \
the build for CUDA " + cuda + ". Check the network and call make again, or add TORCH_INDEX= to the call to keep that build.")

.DELETE_ON_ERROR:
.PHONY: help reproduce test book example plan fetch exams export cards lab pins clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20
	@echo "  PRESET=$(PRESET) (one of $(patsubst notebooks/presets/%.yaml,%,$(wildcard notebooks/presets/*.yaml))) JOBS=$(JOBS) TORCH_INDEX=$(TORCH_INDEX)"
	@echo "  PROFILE=slurm runs the notebooks as jobs of a cluster"

reproduce: $(STAMP)  ## run a preset through every notebook and build the book
	@$(BIN)/python -m jmedlora_utils reproduce --preset $(PRESET) --jobs $(JOBS) $(if $(PROFILE),--profile $(PROFILE)) --install-seconds "$$(cat $(STAMP))"
	@echo 0 > $(STAMP)

test: $(STAMP)  ## everything that CI checks
	@bash .ci/checks

# The book of committed evidence needs no torch: the full installation serves where it is there, else the book's own packages.
book: $(or $(wildcard $(STAMP)),$(BOOK_STAMP))  ## build the book from committed evidence; with PRESET=, from that preset's last run
	@$(BIN)/python -m jmedlora_utils book --jobs $(JOBS) $(if $(filter file,$(origin PRESET)),,--preset $(PRESET))

example: $(or $(wildcard $(STAMP)),$(BOOK_STAMP))  ## fetch the examination of the question on the method page, before make book
	@$(BIN)/python -m jmedlora_utils exams --example

plan: $(STAMP)  ## print what a preset would run, and what it takes on a card (CARD=24, 48, 80 or 141)
	@$(BIN)/python -m jmedlora_utils plan --preset $(PRESET)
	@echo
	@$(BIN)/python -m jmedlora_utils.models.planner --preset $(PRESET) $(if $(CARD),--card $(CARD))

fetch: $(STAMP)  ## download the models and examinations of a preset, for jobs without a network
	@$(BIN)/python -m jmedlora_utils fetch --preset $(PRESET)

exams: $(STAMP)  ## fetch the examination questions and verify them (a cluster's login node, CI)
	@$(BIN)/python -m jmedlora_utils exams

export: $(STAMP)  ## copy an adapter with its model card (ADAPTER=folder OUT=folder; MERGE=1 for a whole model, DTYPE=float32)
	@$(BIN)/python -m jmedlora_utils export --adapter $(ADAPTER) --out $(OUT) $(if $(BASE),--base $(BASE)) $(if $(MERGE),--merge) $(if $(DTYPE),--dtype $(DTYPE))

cards: $(STAMP)  ## write a model card into every adapter of a preset
	@$(BIN)/python -m jmedlora_utils cards --preset $(PRESET)

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3" >/dev/null
	$(BIN)/jupyter lab notebooks

pins: $(STAMP)  ## write constraints.txt anew from an empty environment
	rm -rf $(VENV)-pins && $(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch -e '.[dev,gpu]'
	(head -n 2 constraints.txt; $(VENV)-pins/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//') > constraints.new
	mv constraints.new constraints.txt && rm -rf $(VENV)-pins

clean:  ## remove the environment, the runs and the book
	rm -rf $(VENV) $(VENV)-pins runs _book _build .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
	find jmedlora_utils tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: Python 3.11 or later is needed; name one with PYTHON=")'
	@$(PYTHON) -m venv $(VENV)

$(STAMP): | $(BIN)/python
	@echo "Installing the pins into $(VENV) (about 5 minutes the first time) ..."
	@start=$$(date +%s) \
	  && $(PIP) --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	    $(if $(wildcard $(VENV)/.installed-*-$(INDEX)),,--force-reinstall) torch \
	  $(if $(findstring cpu,$(TORCH_INDEX)),&& $(BIN)/python -c '$(CPU_TORCH)') \
	  && $(PIP) --editable '.[dev]' \
	  && rm -f $(VENV)/.installed-* \
	  && echo $$(($$(date +%s) - start)) > $@

$(BOOK_STAMP): | $(BIN)/python
	@echo "Installing the packages of the book into $(VENV), without torch (about 2 minutes the first time) ..."
	@$(PIP) --editable '.[book]' && rm -f $(VENV)/.book-* && touch $@
