# Every target works on a fresh clone: it makes .venv first. Nothing here calls sudo or apt.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
SETUP := PYTHON="$(PYTHON)" scripts/setup
ARGS ?=

.NOTPARALLEL:

.PHONY: help setup serve test test-unit test-integration test-faults test-gpu cluster-tools \
        test-cluster test-e2e fmt fmt-check lint types imports proto docs crds chart-docs chart \
        chart-policy drift readme check chaos fuzz-handoffs soak-handoffs bench-gateway \
        bench-operator bench-streams bench-overload bench-overlap bench-router bench-routing \
        bench-tiers bench-transfer bench-gpu clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' \
	  | while IFS='|' read -r name text; do printf '  %-18s %s\n' "$$name" "$$text"; done

setup: ## make .venv with the baton command and everything that tests need
	@$(SETUP)

serve: ## serve the embedded model: Ray, workers, gateway; ARGS="--port 8001 --decode 2"
	@$(SETUP)
	@exec $(BIN)/baton serve $(ARGS)

# pytest ends with 5 when it finds no test: wrong only when both do.
test: ## unit and integration tests; ARGS="-k handoff"
	@$(SETUP)
	@unit=0 integration=0; \
	$(BIN)/pytest tests/unit -m "not gpu" -n 2 $(ARGS) || unit=$$?; \
	case $$unit in 0 | 5) ;; *) exit $$unit ;; esac; \
	$(BIN)/pytest tests/integration -m "not gpu" $(ARGS) || integration=$$?; \
	case $$unit$$integration in 00 | 05 | 50) ;; \
	  55) echo "no test matches $(ARGS)" >&2; exit 5 ;; *) exit $$integration ;; esac

test-unit: ## unit tests alone
	@$(SETUP)
	@$(BIN)/pytest tests/unit -m "not gpu" -n 2 $(ARGS)

test-integration: ## tests over real processes: Ray, NIXL, Redis
	@$(SETUP)
	@$(BIN)/pytest tests/integration -m "not gpu" $(ARGS)

test-faults: ## what takes minutes: kills, freezes, drains, Redis variants, fuzz, a short chaos and soak
	@$(SETUP)
	@$(BIN)/pytest tests/faults -n 2 --dist loadfile $(ARGS)

test-gpu: ## tests that need a CUDA device
	@$(SETUP)
	@BATON_TEST_REQUIRED=gpu $(BIN)/pytest -m gpu $(ARGS)

cluster-tools: ## build etcd, Kubernetes, kwok and helm for test-cluster; kept outside the repository
	@scripts/cluster-tools

test-cluster: ## the operator, the CRDs and the chart on a real API server
	@$(SETUP)
	@$(BIN)/pytest tests/cluster $(ARGS)

test-e2e: ## the chart on a real node in namespaces of this machine; needs root, containerd, runc
	@$(SETUP)
	@tests/e2e/in_namespaces $(BIN)/pytest tests/e2e $(ARGS)

fmt: ## format and sort imports
	@$(SETUP)
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

fmt-check: ## fail when `make fmt` would change something
	@$(SETUP)
	@$(BIN)/ruff format --check .

lint: ## ruff
	@$(SETUP)
	@$(BIN)/ruff check .

types: ## mypy --strict over the product code and the benches
	@$(SETUP)
	@$(BIN)/mypy --strict services kernels operators loadtests

imports: ## the import contracts of pyproject.toml
	@$(SETUP)
	@$(BIN)/lint-imports

proto: ## generate services/baton/v1 from proto/
	@$(SETUP)
	@scripts/proto services

docs: ## generate docs/settings.md and docs/operator-settings.md from the settings trees
	@$(SETUP)
	@$(BIN)/python scripts/settings_page.py docs/settings.md
	@$(BIN)/python scripts/operator_settings_page.py docs/operator-settings.md

crds: ## generate deploy/helm/baton/crds and docs/model-service.md from the operator's types
	@$(SETUP)
	@$(BIN)/python scripts/crds.py deploy/helm/baton/crds
	@$(BIN)/python scripts/crds_page.py docs/model-service.md

chart-docs: ## generate the chart's schema and README from its commented values
	@$(SETUP)
	@$(BIN)/python scripts/chart_docs.py deploy/helm/baton

chart: ## the chart alone: lint and rendering by Helm 3 and 4, policy scan
	@$(SETUP)
	@BATON_TEST_REQUIRED=helm $(BIN)/pytest tests/unit/chart $(ARGS)
	@BATON_TEST_REQUIRED=helm scripts/chart-policy

chart-policy: ## scan what the chart renders with checkov
	@scripts/chart-policy

drift: ## fail when generated files differ from their sources
	@$(SETUP)
	@scripts/check_generated

readme: ## fail when a page names commands, flags or files that are not there
	@$(SETUP)
	@$(BIN)/python scripts/check_readme.py

check: fmt-check lint types imports drift readme chart-policy test ## all of it: what CI runs

chaos: ## two minutes of faults and kills under 200 streams; none may break
	@$(SETUP)
	@BATON_TEST_CHAOS_SECONDS=120 BATON_TEST_CHAOS_STREAMS=200 \
	  $(BIN)/pytest tests/faults/test_chaos.py -s -q $(ARGS)

fuzz-handoffs: ## ten thousand handoffs with bad references and bit flips; none may be served
	@$(SETUP)
	@$(BIN)/python loadtests/fuzz_handoffs.py $(ARGS)

soak-handoffs: ## fifty thousand handoffs; memory, threads, files and handles stay flat
	@$(SETUP)
	@$(BIN)/python loadtests/soak_handoffs.py $(ARGS)

bench-gateway: ## CPU of the gateway per million tokens, against a bare uvicorn app
	@$(SETUP)
	@$(BIN)/python loadtests/bench_gateway.py $(ARGS)

bench-streams: ## 5,000 open streams: memory of the gateway for each, gaps between tokens
	@$(SETUP)
	@$(BIN)/python loadtests/bench_streams.py $(ARGS)

bench-overload: ## goodput at 1x and 3x of the capacity, and fairness between tenants
	@$(SETUP)
	@$(BIN)/python loadtests/bench_overload.py $(ARGS)

bench-overlap: ## how much of a KV transfer hides behind the prompt's compute
	@$(SETUP)
	@$(BIN)/python loadtests/bench_overlap.py $(ARGS)

bench-router: ## hashing, prefix index and choice of a worker: CPU and memory; ARGS="--part tokens"
	@$(SETUP)
	@$(BIN)/python loadtests/bench_router.py $(ARGS)

bench-routing: ## routing quality on virtual time; BATON_BENCH_TRACES=FOLDER ARGS="--save"
	@$(SETUP)
	@$(BIN)/python loadtests/bench_routing.py $(ARGS)

bench-tiers: ## first token of an evicted prompt: computed again, from host memory, from disk
	@$(SETUP)
	@$(BIN)/python loadtests/bench_tiers.py $(ARGS)

bench-transfer: ## handoffs against raw NIXL, and without data against gRPC; ARGS="--save"
	@$(SETUP)
	@$(BIN)/python loadtests/bench_transfer.py $(ARGS)

bench-operator: ## 1,000 fake nodes, 50 services, 500 workers: rounds, memory, CPU; ARGS="--save"
	@$(SETUP)
	@PYTHONPATH=tests $(BIN)/python loadtests/bench_operator.py $(ARGS)

bench-gpu: ## kernels on a CUDA device: microseconds and GB/s
	@$(SETUP)
	@for file in $$(grep -l __main__ kernels/baton_kernels/bench/*.py); do \
	  $(BIN)/python -m baton_kernels.bench.$$(basename $$file .py) $(ARGS); \
	done

clean: ## remove caches (not .venv)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
