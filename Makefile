# The two commands of the README are demo and test; both do their own set-up.

GO ?= go
export CGO_ENABLED ?= 0
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# By inputs, not by time: at the end of its time go test -fuzz now and then fails
# with "context deadline exceeded".
FUZZTIME ?= 10000x
# Only against hanging.
TESTTIMEOUT ?= 40m
# Many tests wait more than they compute.
PARALLEL := -p 4 -parallel 8
# All that has goroutines, which the page codec has not. The probes of vmferry bench are
# left out: they measure, and what they call is here.
RACED := . ./relay/... ./cmd/... ./devicestate ./dirty ./guest ./guestmem ./iaa/... ./internal/cause ./live ./migration/... ./multifd ./pagecodec ./qemu ./qmp/... ./snapshot ./store/... ./transport ./vmstate

.PHONY: build demo test quick nightly test-slow test-unit test-noasm test-race test-qemu test-netns test-libvirt lint fuzz bench bench-codec bench-live bench-migrate interop-qpl clean

build:
	$(GO) build -o bin/vmferry ./cmd/vmferry

# Boots a Linux guest, saves it while it works, restores it, shows it counting.
# Where QEMU cannot be had, a machine of goroutines moves between two processes;
# in CI that is a failure.
demo: build
	@if scripts/setup demo; then \
		echo '$(GO) run ./internal/demo -vmferry bin/vmferry'; \
		$(GO) run ./internal/demo -vmferry bin/vmferry; \
	elif [ -n "$$CI" ]; then exit 1; \
	else \
		echo 'QEMU cannot be set up here: bin/vmferry demo --guest go, which needs none'; \
		bin/vmferry demo --guest go; \
	fi

# Every test, those against real QEMUs included.
test: build
	scripts/setup test
	$(MAKE) lint test-unit test-noasm test-qemu test-netns test-libvirt test-race fuzz

# What can be run after each change: no QEMU, no benchmark module, small sizes.
quick:
	$(GO) build ./...
	$(GO) vet ./...
	$(GO) test -short -vet=off $(PARALLEL) -timeout $(TESTTIMEOUT) ./...

# make test with long sizes, and more inputs for each fuzz target.
nightly:
	VMFERRY_SOAK=1 $(MAKE) test FUZZTIME=300000x TESTTIMEOUT=120m

# As on a slow machine: 20 % of one processor, race detector, no assembly.
test-slow:
	scripts/test-slow

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt-clean: $$unformatted"; exit 1; }
	$(GO) build ./...
	$(GO) vet ./...
	$(GO) vet -tags realqemu,netns,libvirt ./...
	GOARCH=arm64 $(GO) vet ./...
	$(STATICCHECK) -tags realqemu,netns,libvirt ./...
	cd bench && $(GO) vet ./... && $(STATICCHECK) ./...

# The benchmark module's tests are of its harness and engines, not of this machine.
# The first line says which tiers of the page codec this processor can run.
test-unit:
	$(GO) test -count=1 -run TestTiers_AreListed -v ./deflate
	$(GO) test $(PARALLEL) -timeout $(TESTTIMEOUT) ./...
	cd bench && $(GO) test -timeout $(TESTTIMEOUT) ./...

# The page codec as it is built without assembly.
test-noasm:
	$(GO) test -timeout $(TESTTIMEOUT) -tags noasm ./deflate

# The race detector needs cgo, the tests do not.
test-race:
	CGO_ENABLED=1 $(GO) test -race -p 2 -parallel 8 -timeout $(TESTTIMEOUT) $(RACED)

# Two packages at a time: a guest keeps one processor busy.
test-qemu:
	$(GO) test -tags realqemu -count=1 -p 2 -timeout $(TESTTIMEOUT) ./qemu ./qmp ./relay ./relay/transcode ./internal/qemutest
	$(GO) test -tags realqemu -count=1 -p 1 -timeout $(TESTTIMEOUT) -run RealQEMU ./dirty ./internal/probe/faults

# A machine that moves between two network namespaces while links break and
# sides are killed. Needs root; the machines of QEMU need scripts/setup test.
test-netns:
	$(GO) test -tags netns -count=1 -timeout $(TESTTIMEOUT) ./internal/slowlink ./internal/godemo
	$(GO) test -tags netns,realqemu -count=1 -timeout $(TESTTIMEOUT) -run FaultsOverASlowLink ./qemu

# libvirt's domains through a pair of relays, between two libvirtds in namespaces of their
# own. Needs root. Two domains at a time: a guest keeps one processor busy.
test-libvirt:
	scripts/setup libvirt
	$(GO) test -tags libvirt -count=1 -parallel 2 -timeout $(TESTTIMEOUT) ./internal/libvirttest

# Each fuzz target for a short while, on top of its seeds.
fuzz:
	scripts/fuzz $(FUZZTIME)

# QUICK=1 takes a minute or two; SAVE has further flags, such as SAVE="-ways raw".
bench: build
	scripts/setup demo
	cd bench && $(GO) run ./save $(if $(QUICK),-quick) $(SAVE)
	$(GO) test -run '^$$' -bench ReceiveNone -benchtime 20x -count 5 ./multifd

# The page codec beside the C libraries; draws docs/notes/codec-chart.svg.
bench-codec:
	scripts/bench-codec

# Live migration beside a bare copy and beside QEMU; writes docs/notes/live-results.md
# and docs/notes/live-*.svg. Where QEMU cannot be had, its rows are left out.
bench-live:
	-scripts/setup demo
	cd bench && $(GO) run ./live

# A QEMU machine over slow links, by QEMU alone and through a pair of relays; writes
# docs/notes/migrate-results.md and docs/notes/migrate-*.svg. Needs root and iproute2.
# With QUICK=1 it takes minutes and writes nothing.
bench-migrate: build
	scripts/setup demo
	cd bench && $(GO) run ./migrate $(if $(QUICK),-quick)

# The driver and the codec against Intel's libqpl, in a folder of its own.
interop-qpl:
	scripts/interop-qpl

clean:
	rm -rf bin .cache
