# logbale. `make` lists the targets; the README shows them in use.
#
# Settings pass through to whatever starts: BATCH_SIZE=500 make client, or make client BATCH_SIZE=500.
# RUNTIME=docker or RUNTIME=native decides where build, run, client, logs, stop and benchmark work; without it they use
# Docker where an engine answers. test uses Docker only when told to; demo and check are always native.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

READY := .venv/ready
READY_DEV := .venv/ready-dev

# A .venv that was moved here with the tree, or whose Python has gone, is made anew: scripts in it name its old place.
$(if $(wildcard $(READY)),$(shell \
  { [ "$$(cat $(READY))" = "$(CURDIR)" ] && .venv/bin/python -c 1; } 2>/dev/null || rm -rf .venv))

.PHONY: help demo test test-long check chaos chaos-smoke chaos-full fuzz build run client logs stop benchmark bench-pipeline bench-peers profile guard guard-update lock audit sbom clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## set up, ship this machine's own logs through a receiver, print what it took (under 30 s)
	@.venv/bin/python scripts/demo.py

test: ## set up and run the tests, two at a time; ARGS="-k name" narrows, RUNTIME=docker runs them in Dockerfile.test
test-long: ## the few that take a good part of a minute each, and those that need three Kafka brokers
test test-long:
	@scripts/runtime.sh $@

check: audit ## formatting, lint, types, known weaknesses and the fast tests
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	$(if $(filter test,$(MAKECMDGOALS)),@echo "the fast tests: among those of make test",.venv/bin/pytest -q -n 2 --dist worksteal -m "not slow and not long")

chaos: ## harm logbale in every way on the list, a tenth as often as chaos-full (10 min); ARGS="F1 F7" narrows
chaos-smoke: ## a few of each fast fault (5 min)
chaos-full: ## all of them, as often as docs/chaos.md says (an hour)
chaos chaos-smoke chaos-full: $(READY_DEV)
	.venv/bin/python -m chaos --length $(patsubst chaos-%,%,$(@:chaos=chaos-tenth)) $(ARGS)

fuzz: $(READY_DEV) ## hostile bytes for everything that reads them, FUZZ_SECONDS (60) a target; ARGS="entry_json" narrows
	@scripts/fuzz.sh $(ARGS)

build: ## build the three Docker images (natively: make the .venv ready)
run: ## start a receiver in the background; it stores entries and prints them
client: ## ship generated entries to it for RUN_TIME seconds (default 30)
logs: ## show the entries as they come, until Ctrl-C
stop: ## stop the receiver; it stores what it has received first
benchmark: ## every algorithm and level on your logs: make benchmark ARGS="/var/log/syslog"
build run client logs stop benchmark:
	@scripts/runtime.sh $@

bench-pipeline: $(READY_DEV) ## from a file to the durable archive: speed, CPU, memory, wire bytes; ARGS="--replay LOG..."
	.venv/bin/python benchmarks/pipeline.py --json bench-results/pipeline.json --chart bench-results/pipeline.svg $(ARGS)

profile: $(READY_DEV) ## flame graphs of both ends while the pipeline runs, and what takes most; ARGS as above
	.venv/bin/python benchmarks/profiling.py $(ARGS)

guard: $(READY_DEV) ## count what an entry takes on the hot path, fail where it is more than the baseline (needs valgrind)
	.venv/bin/python benchmarks/guard.py
guard-update: $(READY_DEV) ## make the present counts the baseline
	.venv/bin/python benchmarks/guard.py --update

bench-peers: $(READY) ## logbale beside rsyslog, syslog-ng and others on a million lines (3 min); ARGS="FILE..." are yours
	@scripts/peers.sh
	@.venv/bin/python benchmarks/peers.py $(ARGS)

lock: ## resolve pyproject.toml anew into requirements.txt and requirements-dev.txt
	@scripts/lock.sh

audit: $(READY_DEV) ## look for known weaknesses in the code (bandit) and in what it uses (pip-audit)
	.venv/bin/bandit --quiet --configfile pyproject.toml --recursive src server_main.py client_main.py
	.venv/bin/python scripts/audit.py

sbom: $(READY_DEV) ## write sbom.cdx.json: what is installed where logbale runs (CycloneDX)
	@.venv/bin/python scripts/sbom.py sbom.cdx.json

clean: ## stop the receiver, remove what these targets made; archives and spools stay
	@scripts/clean.sh

$(READY): requirements.txt pyproject.toml
	@scripts/setup.sh requirements.txt $@

$(READY_DEV): $(READY) requirements-dev.txt
	@scripts/setup.sh requirements-dev.txt $@
