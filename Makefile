# Atlas. `make` lists the words; `make demo` and `make test` need nothing but Go.
.DEFAULT_GOAL := help
SHELL := /bin/sh

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
ASK     ?= Why was the refund on order o_9002 for CUST-1001 delayed?
PKGS    ?= ./...
FUZZTIME ?= 30s

# Every recipe needs Go; say so plainly where it is missing.
ifeq (,$(shell command -v $(GO) 2>/dev/null))
$(error Go is not installed or not on the PATH. Install Go 1.26 or newer (https://go.dev/dl) and try again)
endif

.PHONY: help
help: ## list the words
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9_-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: bin/atlas ## answer one support question on the demo company (ASK="…" asks another)
	@bin/atlas demo --ask "$(ASK)"

.PHONY: serve
serve: bin/atlas ## keep the demo company's server running on 127.0.0.1:8080
	@bin/atlas demo

.PHONY: test
test: ## run every test against real servers, which it starts (fetches modules and servers on first use)
	@$(GO) run ./stack exec $(STACKFLAGS) -- $(GO) test -timeout 20m $(PKGS)

.PHONY: race
race: ## run every test with the race detector
	@$(GO) run ./stack exec $(STACKFLAGS) -- env CGO_ENABLED=1 $(GO) test -race -timeout 40m $(PKGS)

.PHONY: stack
stack: bin/atlas ## run Atlas on Postgres, Redis, S3 and OpenSearch, started on loopback, with the demo company in them
	@$(GO) run ./stack up $(STACKFLAGS)

.PHONY: stack-status
stack-status: ## show what of the stack runs, and where
	@$(GO) run ./stack status

.PHONY: stack-down
stack-down: ## stop the stack and remove its data
	@$(GO) run ./stack down

.PHONY: e2e
e2e: ## build the binary and drive it as a user does (part of test, too)
	@$(GO) test -count=1 -timeout 10m ./e2e/...

.PHONY: conformance
conformance: ## run the protocol's official suite against Atlas (fetches Node.js and the suite with npm)
	@$(GO) run ./conformance $(CONFORMANCEFLAGS)

.PHONY: interop
interop: ## drive Atlas with other people's clients and identity providers (npm, python3, Maven, Chromium)
	@$(GO) run ./interop $(INTEROPFLAGS)

.PHONY: lint
lint: ## run the linters (builds them on first use, which takes minutes)
	@$(TOOL) golangci-lint run ./...

.PHONY: fmt
fmt: ## format the code
	@$(TOOL) golangci-lint fmt ./...

.PHONY: gen
gen: ## rewrite the files that are made from tables (docs/errors.md, docs/conditions.md, .env.example)
	@ATLAS_UPDATE=1 $(GO) test -count=1 -run 'TestGenerated' ./... >/dev/null
	@git status --short docs .env.example

.PHONY: golden
golden: ## rewrite the golden files of the tests; look at the difference before you commit it
	@ATLAS_UPDATE=1 $(GO) test -count=1 $(PKGS)

.PHONY: check
check: ## everything: format, vet, lint, generated files, tests with the race detector, end to end, conformance
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'not formatted: run make fmt'; exit 1; }
	@$(GO) vet ./...
	@$(MAKE) lint
	@$(MAKE) race
	@$(MAKE) e2e
	@$(GO) run ./stack exec -only postgres -- sh -c 'cd bench && $(GO) vet ./... && $(GO) test ./...'
	@$(MAKE) conformance

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5s || exit 1; done; done

.PHONY: bench
bench: ## measure calls side by side, in both eras: Atlas, bare go-sdk, bare mcp-go, plain net/http; SQL beside pgx and MCP Toolbox
	@cd bench && $(GO) run . $(BENCHFLAGS)

.PHONY: build
build: bin/atlas bin/atlas-copilot ## build the commands into bin/

.PHONY: bin/atlas bin/atlas-copilot
bin/atlas bin/atlas-copilot: bin/%:
	@test -x $@ || echo 'building $@ (the first time fetches and compiles the libraries; about a minute or two)'
	@CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

.PHONY: image
image: ## build the container images atlas-mcp and atlas-copilot (needs Docker)
	@docker build --build-arg VERSION=$(VERSION) -t atlas-mcp:$(VERSION) .
	@docker build --build-arg VERSION=$(VERSION) --target copilot -t atlas-copilot:$(VERSION) .

.PHONY: sbom
sbom: bin/atlas bin/atlas-copilot ## write what the binaries are made of into dist/ (CycloneDX)
	@mkdir -p dist
	@for b in atlas atlas-copilot; do \
	  $(GO) tool -modfile=deploy/sbom/go.mod cyclonedx-gomod bin -json -std -version $(VERSION) -output dist/$$b.cdx.json bin/$$b 2>/dev/null && echo dist/$$b.cdx.json || exit 1; done

.PHONY: compose-check
compose-check: ## check the compose files, image, alerts and SBOM as far as this machine can (ONLY="compose rules")
	@bash deploy/check/check.sh

.PHONY: setup
setup: ## use the repository's git hooks
	@git config core.hooksPath .githooks

.PHONY: clean
clean: ## remove what was built and the demo company's data
	@rm -rf bin dist .atlas coverage.out bench/out conformance/out interop/out e2e/out

.PHONY: distclean
distclean: clean ## remove what was fetched (servers, conformance, interop), too; stops the stack
	@test ! -e .cache/stack/state.json || $(GO) run ./stack down
	@rm -rf .cache
