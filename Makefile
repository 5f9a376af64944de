# Two commands: `make reproduce` and `make test`. `make help` lists the rest.

PRESET ?= mini
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# Where torch comes from. A machine without an NVIDIA driver takes the CPU build; set TORCH_INDEX= (empty) for the
# package index's own build with CUDA, or name another index.
ifeq ($(shell command -v nvidia-smi),)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
else
TORCH_INDEX ?=
endif

VENV := .venv
BIN := $(VENV)/bin
# Named after what it installs and where torch comes from: a change of a pin or of TORCH_INDEX installs again, nothing else does.
INDEX := $(shell printf %s '$(TORCH_INDEX)' | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)-$(INDEX)
BOOK_STAMP := $(VENV)/.book-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
# A Python of your own choice: make PYTHON=/path/to/python3.12 ...; else the first of python3.11, python3.12 and python3.13.
export PYTHON TORCH_INDEX

# One argument of a shell command, whatever it holds.
quoted = '$(subst ','\'',$(1))'

.DELETE_ON_ERROR:
.PHONY: help reproduce test test-all book example plan fetch exams export cards lab pins clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo "  PRESET=$(PRESET) (one of $(patsubst notebooks/presets/%.yaml,%,$(wildcard notebooks/presets/*.yaml))) JOBS=$(JOBS) TORCH_INDEX=$(TORCH_INDEX)"
	@echo "  PROFILE=slurm runs the notebooks as jobs of a cluster"

reproduce: $(STAMP)  ## run a preset through every notebook and build the book
	@$(BIN)/python -m jmedlora_utils reproduce --preset $(call quoted,$(PRESET)) --jobs $(call quoted,$(JOBS)) $(if $(PROFILE),--profile $(call quoted,$(PROFILE))) --install-seconds "$$(cat $(STAMP))"
	@echo 0 > $(STAMP)

test: $(STAMP)  ## everything that CI checks, but the long tests
	@bash .ci/checks

test-all: $(STAMP)  ## the long tests too
	@bash .ci/checks all

# The book of committed evidence needs no torch: the full installation serves where it is there, else the book's own packages.
book: $(or $(wildcard $(STAMP)),$(BOOK_STAMP))  ## build the book from committed evidence; with PRESET=, from that preset's last run; STRICT=1 refuses warnings
	@$(BIN)/python -m jmedlora_utils book --jobs $(call quoted,$(JOBS)) $(if $(filter file,$(origin PRESET)),,--preset $(call quoted,$(PRESET))) $(if $(STRICT),--strict)

example: $(or $(wildcard $(STAMP)),$(BOOK_STAMP))  ## fetch the examination of the question on the method page, and build the book
	@$(BIN)/python -m jmedlora_utils exams --example || echo "The method page shows an invented question instead."
	@$(BIN)/python -m jmedlora_utils book --jobs $(call quoted,$(JOBS)) $(if $(STRICT),--strict)

plan: $(STAMP)  ## print what a preset would run, and what it takes on a card (CARD=24, 48, 80 or 141)
	@$(BIN)/python -m jmedlora_utils plan --preset $(call quoted,$(PRESET))
	@echo
	@$(BIN)/python -m jmedlora_utils.models.planner --preset $(call quoted,$(PRESET)) $(if $(CARD),--card $(call quoted,$(CARD)))

fetch: $(STAMP)  ## download the models and examinations of a preset, for jobs without a network
	@$(BIN)/python -m jmedlora_utils fetch --preset $(call quoted,$(PRESET))

exams: $(STAMP)  ## fetch the examination questions and verify them (a cluster's login node, CI)
	@$(BIN)/python -m jmedlora_utils exams

export: $(STAMP)  ## copy an adapter with its model card (ADAPTER=folder OUT=folder; MERGE=1 for a whole model, DTYPE=float32)
	@$(BIN)/python -m jmedlora_utils export --adapter $(call quoted,$(ADAPTER)) --out $(call quoted,$(OUT)) $(if $(BASE),--base $(call quoted,$(BASE))) $(if $(MERGE),--merge) $(if $(DTYPE),--dtype $(call quoted,$(DTYPE)))

cards: $(STAMP)  ## write a model card into every adapter of a preset
	@$(BIN)/python -m jmedlora_utils cards --preset $(call quoted,$(PRESET))

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3" >/dev/null
	$(BIN)/jupyter lab notebooks

pins: $(STAMP)  ## write constraints.txt anew from an empty environment
	(head -n 2 constraints.txt; $(or $(shell command -v uv),$(BIN)/uv) pip compile --quiet --no-header --no-annotate --upgrade \
	  --python $(BIN)/python --extra dev --extra gpu pyproject.toml | sed 's/+cpu$$//') > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove the environment, the runs and the book
	rm -rf $(VENV) runs _book _build .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
	find jmedlora_utils tests -name __pycache__ -prune -exec rm -rf {} +

$(STAMP):
	@echo "Installing the pins into $(VENV) (about a minute the first time) ..."
	@start=$$(date +%s) && bash .ci/install $(VENV) dev && rm -f $(VENV)/.installed-* && echo $$(($$(date +%s) - start)) > $@

$(BOOK_STAMP):
	@echo "Installing the packages of the book into $(VENV), without torch (half a minute the first time) ..."
	@bash .ci/install $(VENV) book && rm -f $(VENV)/.book-* && touch $@
