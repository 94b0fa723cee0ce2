# Every target is one line of what it does; `make help` lists them.
GO      ?= go
BIN     := bin
ENVOY    = $(shell $(GO) run ./internal/envoybin)
KUBELAB := .cache/kubelab
SOURCES := $(shell find . -name '*.go' -not -path './.cache/*') go.mod go.sum

.PHONY: help build demo test race e2e e2e-kube conformance lint audit generate verify bench bench-full fuzz clean tools

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
	TOMBOLO_ENVOY="$(ENVOY)" TOMBOLO_REQUIRE_ENVOY=1 TOMBOLO_REQUIRE_POSTGRES=1 $(GO) test -timeout 20m ./...

race: ## the tests of everything that runs in parallel under the race detector, about 10 minutes on two processors
	@sh deploy/setup.sh postgres
	TOMBOLO_ENVOY="$(ENVOY)" $(GO) test -race -timeout 15m ./identity/... ./mesh/... ./ingress/... ./xds/... ./agent/... ./zone/... ./global/...

e2e: build ## the laboratory: zones in network namespaces, faults under traffic (root)
	@sh deploy/setup.sh postgres lab
	TOMBOLO_ENVOY="$(ENVOY)" TOMBOLO_E2E=1 $(GO) test -timeout 40m -count=1 -v ./e2e/...

e2e-kube: build $(KUBELAB)/built $(KUBELAB)/images ## two Kubernetes clusters and a VM zone (root); RUN=TestKube//strict for a part
	$(if $(RUN),,TOMBOLO_HELM=$(abspath $(KUBELAB))/bin/helm $(GO) test -count=1 ./deploy/helm)
	$(if $(RUN),,e2e/kube/rooms.sh $(abspath $(KUBELAB)))
	TOMBOLO_E2E_KUBE=1 TOMBOLO_REQUIRE_POSTGRES=1 TOMBOLO_ENVOY="$(ENVOY)" \
	  $(GO) test -p 1 -timeout 55m -count=1 -v $(if $(RUN),-run '$(RUN)') ./e2e/kube/...

# The clusters' binaries and Helm: 8 minutes, again only when what they are made of changes.
KUBELABKEY = $(shell cat e2e/kubelab/build.sh e2e/kubelab/go/go.* e2e/kubelab/go/cmd/*/*.go | sha256sum | cut -c-16)
.PHONY: $(KUBELAB)/built $(KUBELAB)/images
$(KUBELAB)/built:
	@sh deploy/setup.sh kube postgres
	@[ "$$(cat $@ 2>/dev/null)" = $(KUBELABKEY) ] || { echo "building the clusters' binaries"; \
	  CACHE=$(abspath $(KUBELAB)) sh deploy/again.sh e2e/kubelab/build.sh && echo $(KUBELABKEY) >$@; }

$(KUBELAB)/images: $(KUBELAB)/built
	ENVOY="$(ENVOY)" MKIMAGE=$(abspath $(KUBELAB))/bin/mkimage e2e/kube/images.sh .cache/images

conformance: build $(KUBELAB)/built $(KUBELAB)/images ## the Gateway API's mesh tests on a cluster (root); the report into docs/conformance
	MKIMAGE=$(abspath $(KUBELAB))/bin/mkimage e2e/conformance/run.sh $(abspath .cache/conformance)
	TOMBOLO_E2E_KUBE=1 TOMBOLO_CONFORMANCE=$(abspath .cache/conformance) TOMBOLO_REQUIRE_POSTGRES=1 TOMBOLO_ENVOY="$(ENVOY)" \
	  $(GO) test -timeout 55m -count=1 -v -run 'TestKube//^conformance$$' ./e2e/kube; \
	  status=$$?; mkdir -p docs/conformance && cp .e2e/kube/conformance.yaml docs/conformance/mesh.yaml && exit $$status

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

bench: build ## the budgets of docs/bench.md, measured here and written there, in less than 5 minutes
	@$(GO) build -trimpath -o $(BIN)/bench ./bench
	TOMBOLO_ENVOY="$(ENVOY)" $(BIN)/bench -write

bench-full: build ## the scenarios that take longer, and as root the laboratories'; RUN=name,name for some
	@[ $$(id -u) != 0 ] || sh deploy/setup.sh postgres lab
	@$(GO) build -trimpath -o $(BIN)/bench ./bench
	TOMBOLO_ENVOY="$(ENVOY)" $(BIN)/bench $(if $(RUN),-run '$(RUN)',-full -write)

fuzz: ## every fuzz target for a while (FUZZTIME=30s each), and SEQUENCES=10000 random histories of a zone
	$(GO) test ./zone -timeout 24h -run '^TestIncrementalEqualsFromScratch$$' -meta.seeds=$${SEQUENCES:-10000} -meta.from=$${FROM:-1000} -meta.steps=$${STEPS:-15}
	@for p in $$(grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | sed 's/func //'); do \
	    $(GO) test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-30s} || exit 1; done; done

clean: ## remove what was built and cached here
	rm -rf $(BIN) .cache .demo .e2e
