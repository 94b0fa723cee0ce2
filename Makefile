# Every target is one line of what it does; `make help` lists them.
GO      ?= go
BIN     := bin
ENVOY    = $(shell $(GO) run ./internal/envoybin)
SOURCES := $(shell find . -name '*.go' -not -path './.cache/*') go.mod go.sum

.PHONY: help build demo test e2e lint audit generate verify bench fuzz clean tools

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: $(BIN)/tombolo $(BIN)/tombolo-agent ## build both binaries into bin/

$(BIN)/%: $(SOURCES)
	@mkdir -p $(BIN)
	$(GO) build -trimpath -o $@ ./cmd/$*

demo: build ## two zones on this machine, no root, no database; ONCE=1 exits after the story
	@TOMBOLO_ENVOY="$(ENVOY)" exec $(BIN)/tombolo dev $(if $(ONCE),--once)

test: ## unit, protocol and federation tests, real PostgreSQL, real Envoy
	@sh deploy/setup.sh postgres
	TOMBOLO_ENVOY="$(ENVOY)" TOMBOLO_REQUIRE_ENVOY=1 TOMBOLO_REQUIRE_POSTGRES=1 $(GO) test -timeout 9m ./...

e2e: build ## the laboratory: zones in network namespaces, faults under traffic (root)
	@sh deploy/setup.sh postgres lab
	TOMBOLO_ENVOY="$(ENVOY)" TOMBOLO_E2E=1 $(GO) test -timeout 40m -count=1 -v ./e2e/...

lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt -w $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

audit: ## known vulnerabilities (needs the network's vulnerability database)
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

generate: ## everything that is derived: protobuf, schemas, reference pages, CRDs
	$(GO) run ./internal/protogen .
	$(GO) run ./internal/gen

verify: generate ## fail when something derived is stale
	@stale=$$(git status --porcelain -- proto mesh/schema docs/reference deploy/helm/tombolo/files/crds); test -z "$$stale" || \
	  { echo "$$stale"; git diff -- proto mesh/schema docs/reference deploy/helm/tombolo/files/crds; echo "stale, or not committed: make generate"; exit 1; }
	$(GO) mod verify

bench: build ## the budgets of docs/bench.md, measured here
	TOMBOLO_ENVOY="$(ENVOY)" $(GO) run ./bench

fuzz: ## every fuzz target for a while (FUZZTIME=30s each)
	@for p in $$(grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | sed 's/func //'); do \
	    $(GO) test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-30s} || exit 1; done; done

clean: ## remove what was built and cached here
	rm -rf $(BIN) .cache .demo .e2e
