# Fulmar. `make help` lists what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

PYTHON := .cache/venv/bin/python

# What `make qpid` runs the suites with.
PYTHON2 := python2.7

# How many seeds `make sim` simulates.
SEEDS ?= 1000

# How often `make soak-kill` kills the broker.
KILL_ROUNDS ?= 500

# How often `make power-cut` does so.
ROUNDS ?= 10

# What `make hw-test` runs beside Fulmar: a folder with Apache Qpid's broker and tools, built with RDMA.
PEER ?=

# What `make test` runs, in this order.
STEPS := tidy deps lint unit doctest docs loom sim interop fuzz miri rdma

.PHONY: help run build test $(STEPS) microbench book qpid power-cut soak-kill hw-test clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

run: build ## Build and start a broker, ready for clients on port 5672 (ARGS='--port 0 …' for options)
	target/release/fulmar serve $(ARGS)

build: ## Build the program
	@scripts/install build
	cargo build --release --bin fulmar

test: ## Run everything below, one after the other, and sum up
	@scripts/test $(STEPS)

tidy: ## Check the files themselves: sizes, leftovers
	@scripts/install python
	@$(PYTHON) scripts/tidy.py

deps: ## Check the dependencies: where they come from, under which licences
	@scripts/install build python
	@$(PYTHON) scripts/check_dependencies.py

lint: ## Check formatting, run clippy with warnings denied
	@scripts/install build rustfmt clippy
	cargo fmt --all --check
	cargo fmt --check --manifest-path broker/protocol/amqp-0-9-1/fuzz/Cargo.toml
	cargo fmt --check --manifest-path broker/protocol/amqp-0-10/fuzz/Cargo.toml
	cargo fmt --check --manifest-path broker/journal/fuzz/Cargo.toml
	cargo clippy --workspace --all-targets --quiet -- -D warnings

unit: ## Run unit and property tests
	@scripts/install build
	@FULMAR_SIM_SEEDS=10 scripts/cargo-test --workspace

doctest: ## Run the examples in the documentation of the code
	@scripts/install build
	cargo test --workspace --doc --quiet

docs: ## Check the book and the README: summary complete, no dead link
	@scripts/install python
	@$(PYTHON) scripts/check_docs.py

sim: ## Run the whole broker under simulation, from a thousand seeds (SEEDS=… for another number)
	@scripts/install build
	FULMAR_SIM_SEEDS=$(SEEDS) cargo test --quiet --profile checked --package fulmar --test simulation -- --nocapture

loom: ## Check the models of the rings and of the sleep protocol between shards
	@scripts/install build
	RUSTFLAGS='--cfg loom' cargo test --quiet --release --package fulmar-core --lib --target-dir target/loom loom_

fuzz: ## Fuzz each target for 20 seconds from the kept corpus (SECONDS_EACH=… for another time)
	@scripts/install build fuzz
	@scripts/fuzz

miri: ## Run the unsafe code under Miri, where a toolchain has it
	@scripts/install build
	@scripts/miri

microbench: ## Time codec, routing, queues, journal and the hop between shards by themselves (ARGS='--save-baseline NAME' …)
	@scripts/install build
	cargo bench --quiet --package fulmar-core --package fulmar-amqp-0-9-1 --package fulmar-journal --benches -- $(ARGS)

book: ## Build the book in docs/book (compiles mdBook the first time)
	@scripts/install book
	.cache/bin/mdbook build docs

interop: ## Run RabbitMQ's clients in Python and JavaScript against the broker, on both kinds of I/O, and log in by everything
	@scripts/install build python node kerberos
	cargo build --profile checked --bin fulmar
	@$(PYTHON) -m pytest -q -p no:cacheprovider --timeout 60 broker/server/tests/interop/python
	@NODE_PATH=.cache/node/node_modules node --test --test-timeout=60000 broker/server/tests/interop/node/

qpid: ## Run Apache Qpid's Python suites (QPID_PYTHON=…, QPID_CPP=…: checkouts; PYTHON2=…: interpreter)
	@scripts/install build
	cargo build --profile checked --bin fulmar
	scripts/qpid-suites --qpid-python $(QPID_PYTHON) --qpid-cpp $(QPID_CPP) --python $(PYTHON2) \
	    --fulmar target/checked/fulmar --log .cache/qpid-suites.log

soak-kill: ## Kill a broker under load 500 times and look what it has kept (KILL_ROUNDS=… for another number)
	@scripts/install build
	FULMAR_KILL_ROUNDS=$(KILL_ROUNDS) cargo test --quiet --profile checked --package fulmar --test kill -- --nocapture

power-cut: ## Cut the power of a virtual machine with a broker under load, ten times (ROUNDS=… for another number)
	@scripts/install build python
	cargo build --release --quiet --package fulmar --bin fulmar --package fulmar-client --example trail
	$(PYTHON) hw-tests/power-cut/run.py target/release/fulmar target/release/examples/trail --rounds $(ROUNDS)

rdma: ## Run RDMA on a device of this host, or with Soft-RoCE in a virtual machine: in short
	@scripts/install build python
	cargo build --quiet --profile checked --bin fulmar
	@$(PYTHON) -m pytest -q -p no:cacheprovider hw-tests
	@$(PYTHON) hw-tests/rdma/run.py target/checked/fulmar --quick --skipped .cache/skipped-rdma $(ARGS)

hw-test: ## The same at length, with losses and what breaks (PEER=…: Apache Qpid's programs, ARGS=…)
	@scripts/install build python
	cargo build --quiet --profile checked --bin fulmar
	@$(PYTHON) -m pytest -q -p no:cacheprovider hw-tests
	@$(PYTHON) hw-tests/rdma/run.py target/checked/fulmar --skipped .cache/skipped-hw-test $(if $(PEER),--peer $(PEER)) $(ARGS)

clean: ## Remove everything that was built or installed here
	cargo clean
	rm -rf .cache docs/book
