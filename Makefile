# One screen of commands. Everything lives in .venv and .topwork of this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TOPWORK_HOME ?= $(CURDIR)/.topwork
# Weight packages and wheels come from pip's own index settings.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What is tested, with hashes. pip takes the versions alone from it: PyTorch's builds for the CPU and for CUDA both fit.
LOCK ?= dependencies/tested.txt

.PHONY: install demo test test-all test-fast test-tensorflow lint protos bench bench-peers bench-search bench-heads bench-transfer soak memory docs clean

install: $(VENV)/installed  ## .venv with everything in it: server, plugins, client, development tools

$(VENV)/installed: pyproject.toml clients/python/pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	sed -e '/--hash=/d' -e 's/ \\$$//' $(LOCK) > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade --constraint $(VENV)/constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --build-constraint $(VENV)/constraints.txt \
		-e clients/python -e '.[demo,dev]'
	touch $@

demo: install  ## turn real texts, words, pictures and clips into features over gRPC
	$(BIN)/topwork demo

# Each worker takes whole files, so that what a file shares is made once, in the order of tests/conftest.py; a worker needs up to
# 2 GiB. Tests wait for servers and children a fifth of their time, so three workers share two cores.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(6, (3 * (os.cpu_count() or 1) + 1) // 2))')
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: install weights node  ## the whole suite, with real weights, on up to four cores
	$(PYTEST)

test-all: export TOPWORK_WHOLE := 1
test-all: export TOPWORK_DAMAGES := all
test-all: export TOPWORK_ARGUMENTS := all
test-all: export TOPWORK_STEPS := 80
test-all: test  ## `make test` with every damage to every file, more random changes, and complete networks

test-fast: install node  ## without the packaged weights
	$(PYTEST) -m 'not weights and not tensorflow'

test-tensorflow: install  ## conversions of real SavedModels, in an environment with TensorFlow that this makes in .topwork (1.5 GB)
	$(BIN)/python -m pytest -m tensorflow

TRITON := .tritonclient
.PHONY: test-tritonclient
test-tritonclient: install weights  ## the Open Inference Protocol by Triton's own client, in an environment of its own
	test -d $(TRITON) || { $(PYTHON) -m venv $(TRITON) && $(TRITON)/bin/python -m pip install --quiet 'tritonclient[http,grpc]==2.73.0'; }
	TRITONCLIENT=$(CURDIR)/$(TRITON)/bin/python $(BIN)/python -m pytest tests/server/doors/test_tritonclient.py tests/test_doors_page.py

INTEGRATIONS := sklearn langchain llama-index haystack datasets ray fiftyone
.PHONY: test-integrations $(INTEGRATIONS:%=test-integrations-%)
test-integrations: $(INTEGRATIONS:%=test-integrations-%)  ## topwork.integrations with the real packages, each in an environment of its own, in .venvs

# Packages of the tests alone, beside those that the extra of the client installs.
of-sklearn := pandas pillow
of-langchain := langchain-tests==1.1.9
of-llama-index := pillow llama-index-embeddings-text-embeddings-inference==0.6.0
of-haystack := pillow
of-datasets := pillow
of-fiftyone := pillow secantusdb==0.7.0b3

$(INTEGRATIONS:%=test-integrations-%): test-integrations-%: install
	test -f .venvs/$*/installed || { $(PYTHON) -m venv .venvs/$* && .venvs/$*/bin/python -m pip install --quiet \
		-e 'clients/python[$*]' pytest==9.2.0 pytest-timeout==2.4.0 $(of-$*) && touch .venvs/$*/installed; }
	TOPWORK_WHOLE=1 TOPWORK_PYTHON=$(CURDIR)/$(BIN)/python .venvs/$*/bin/python -m pytest -c tests/integrations/environments.ini --rootdir=. \
		tests/integrations/test_$(subst -,_,$*)*.py

.PHONY: weights
weights: install
	@for name in all-minilm-l6-v2 efficientnet-lite0 resnet50-thin i3d-resnet50-thin glove-6b-50d; do \
		$(BIN)/topwork pull $$name || exit 1; done

.PHONY: node punch
node:  ## what the example in Node needs, where Node is
	@if command -v npm >/dev/null; then npm ci --prefix clients/node --no-audit --no-fund --ignore-scripts --loglevel=error; fi

punch: install weights  ## throw small requests with large consequences at a real server, and print what each cost it
	$(BIN)/python tests/punch.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python protos/check.py
	$(BIN)/python -m dependencies.check

.PHONY: lock sbom audit
lock:  ## resolve the tested set again, after a change of pyproject.toml; LOCK_FLAGS=--upgrade takes the newest of all
	$(BIN)/python -c 'import uv' 2>/dev/null || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv==0.13.9; }
	$(BIN)/python -m dependencies.lock $(LOCK_FLAGS)

sbom: install  ## what the server is made of, as CycloneDX, in dist/topwork.cdx.json
	$(BIN)/python -m dependencies.sbom dist/topwork.cdx.json

audit: install  ## known vulnerabilities of the tested set; it fails where it can ask nobody
	$(BIN)/python -m dependencies.audit

docs: install  ## the pages as a site with an API reference, in site/; a link that leads nowhere fails it
	$(BIN)/python -c 'import material, mkdocstrings_handlers.python' || $(BIN)/python -m pip install --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

protos: install  ## generate the code of protos/ again, and record what is new in them as released
	$(BIN)/python protos/check.py --record
	PYTHON=$(CURDIR)/$(BIN)/python protos/generate

BENCH_PARTS ?= text,pictures,video,words
bench: install weights  ## side by side: ceilings, Topwork, and peers (`make bench-peers` first); BENCH_PARTS=text,words chooses
	$(BIN)/python -c 'import aiohttp, skimage' || $(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m benchmarks.serving --parts $(BENCH_PARTS) --json docs/benchmarks.json --page docs/benchmarks.md

soak: install  ## kill the server 300 times while clients write, delete and search, and 300 times while one trains
	TOPWORK_KILLS=300 $(BIN)/python -m pytest -s tests/crash

bench-peers: install  ## the environments of the peers, in .bench-peers (some gigabytes)
	$(BIN)/python -m benchmarks.serving.peers.environments

PEERS := .bench-peers/search
bench-search: install  ## writes and searches beside in-process FAISS and embedded stores, in an environment of their own
	test -d $(PEERS) || { $(PYTHON) -m venv $(PEERS) && $(PEERS)/bin/python -m pip install --quiet \
		hnswlib==0.8.0 lancedb==0.40.0 chromadb==1.5.9 pymilvus==3.0.2 milvus-lite==3.2.2; }
	$(BIN)/python -m benchmarks.search --rows 100000 --peers $(PEERS)/bin/python hnswlib lancedb chroma milvus_lite

.PHONY: bench-doors
bench-doors: install weights  ## each door beside native gRPC; the clients of OpenAI and Triton at us, at infinity and at Triton
	$(BIN)/python -c 'import aiohttp' || $(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m benchmarks.serving.peers.environments pytriton infinity
	$(BIN)/python -m benchmarks.doors --peers

SKLEARN := .bench-sklearn
bench-heads: install weights  ## train to first prediction, latency beside a training; the linear sweep beside one fit of scikit-learn
	test -d $(SKLEARN) || { $(PYTHON) -m venv $(SKLEARN) && $(SKLEARN)/bin/python -m pip install --quiet scikit-learn==1.9.1; }
	$(BIN)/python -m benchmarks.heads
	$(BIN)/python -m benchmarks.probe_sweep --sklearn $(SKLEARN)/bin/python

bench-transfer: install weights  ## whether transfer learning works, on real data (see benchmarks/transfer/datasets.py for what must be installed)
	$(BIN)/python -m benchmarks.transfer

memory: install weights  ## resident memory of the server, idle and with all offline encoders
	$(BIN)/python -m benchmarks.memory

clean:
	rm -rf $(VENV) site .bench-peers $(SKLEARN) $(TRITON) .venvs .topwork .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
