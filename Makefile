# Two programs, built, tested and shown. `make help` lists what can be asked for.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export HOME ?= /root
export PATH := $(PATH):$(HOME)/.cargo/bin

# Where a package would put things.
DESTDIR ?=
PREFIX ?= /usr/local
SHARE = $(PREFIX)/share
UNIT_DIR ?= /etc/systemd/system
ZSH_COMPLETIONS ?= $(SHARE)/zsh/site-functions

# Tests of a whole node that run at the same time.
E2E_THREADS ?= 2

# Tests of Podman that run at the same time: they mostly wait.
PODMAN_THREADS ?= 4

# Inputs for each property of `make fuzz`.
FUZZ_CASES ?= 2000

# What `make bench` is told: --quick, monitors, node, scopes.
BENCH ?=

# crio-manager finds conmon-rs and crio-pause beside itself, so all of them are gathered here.
BIN := target/bin

.PHONY: help setup build release monitor check unit fuzz integration e2e conformance podman vm-test vm-test-short test demo bench doc config install deb clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need (Debian 12, as root); quick when all is there
	@contrib/setup.sh

build: monitor ## build both programs for testing, into target/bin
	cargo build -p crio-manager
	@install -m 0755 target/debug/crio-manager $(BIN)/

release: monitor ## build both programs for use, into target/bin
	cargo build --release -p crio-manager
	@install -m 0755 target/release/crio-manager $(BIN)/

monitor: ## build the static programs alone: conmon-rs and crio-pause
	@contrib/build-static.sh $(BIN)

check: ## what review runs: formatting, lints, documentation, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p e2e --test podman -- -D warnings # asked for by name, so not among all targets
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo "check: cargo-deny is not installed, deny.toml was not applied"; fi

unit: ## tests beside the code, without root
	cargo test --workspace --exclude e2e --lib --bins

fuzz: ## the parsers of outside bytes, each with FUZZ_CASES inputs instead of 256
	PROPTEST_CASES=$(FUZZ_CASES) cargo test --workspace --exclude e2e --lib -- any_ no_ junk damaged --skip any_cut_of_the_output # whose few inputs are whole logs

integration: ## one program or driver against the real kernel; needs root
	cargo test --workspace --exclude e2e --test '*'

e2e: build ## a whole node over CRI, with runc and with crun; needs root
	CRIO_MANAGER_BIN_DIR=$(CURDIR)/$(BIN) cargo test -p e2e -- --test-threads=$(E2E_THREADS)

conformance: build ## what the field's conformance suite demands, with runc and with crun; needs root (part of e2e)
	CRIO_MANAGER_BIN_DIR=$(CURDIR)/$(BIN) cargo test -p e2e --test conformance

podman: monitor ## Debian's Podman with conmon-rs as its monitor, with runc and with crun; needs root
	CRIO_MANAGER_BIN_DIR=$(CURDIR)/$(BIN) cargo test -p e2e --test podman -- --test-threads=$(PODMAN_THREADS)

vm-test: build ## the whole-node tests in a machine with a kernel of its own, under systemd, cgroups of version 2; needs root
	tests/hosts/vm-test.sh

vm-test-short: build ## a few of them, as make test runs them
	tests/hosts/vm-test.sh --short

test: ## install what is missing and run every test
	@if $(MAKE) --no-print-directory setup build unit fuzz integration e2e podman vm-test-short; \
	then cat target/conformance/*.txt; echo "make test: PASSED: every test of every layer"; \
	else echo "make test: FAILED: the failing test is named above"; exit 1; fi

demo: ## install what is missing and show a pod from image to removal, with runc and with crun
	@if $(MAKE) --no-print-directory setup release && cargo build --release -p e2e --bin demo && \
	CRIO_MANAGER_BIN_DIR=$(CURDIR)/$(BIN) target/release/demo target/demo; \
	then echo "make demo: PASSED"; \
	else echo "make demo: FAILED: the reason is above"; exit 1; fi

bench: ## the monitor beside Debian's conmon, the node beside its containerd, scopes; BENCH="--quick monitors node scopes" for parts
	@$(MAKE) --no-print-directory setup release
	cargo build --release -p e2e --bin bench
	CRIO_MANAGER_BIN_DIR=$(CURDIR)/$(BIN) target/release/bench $(BENCH)

doc: ## the documentation of the code, in target/doc
	cargo doc --workspace --no-deps --document-private-items

config: ## write contrib/crio.conf and the man pages anew from the keys and commands of the code
	cargo build -q -p crio-manager
	target/debug/crio-manager config --default > target/crio.conf.new
	mv target/crio.conf.new contrib/crio.conf
	for page in crio-manager.8 crio.conf.5; do \
	target/debug/crio-manager man $$page > target/$$page.new && mv target/$$page.new contrib/man/$$page; done

install: ## install what `make release` built: programs, configuration, man pages, completions, samples, units
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/crio-manager $(BIN)/conmon-rs
	if [ -e $(BIN)/crio-pause ]; then install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/crio-pause; fi
	[ -e $(DESTDIR)/etc/crio/crio.conf ] || install -D -m 0644 contrib/crio.conf $(DESTDIR)/etc/crio/crio.conf
	[ -e $(DESTDIR)/etc/crictl.yaml ] || install -D -m 0644 contrib/crictl.yaml $(DESTDIR)/etc/crictl.yaml
	install -D -m 0644 -t $(DESTDIR)$(SHARE)/man/man8 contrib/man/conmon-rs.8 contrib/man/crio-manager.8
	install -D -m 0644 -t $(DESTDIR)$(SHARE)/man/man5 contrib/man/crio.conf.5
	install -D -m 0644 -t $(DESTDIR)$(SHARE)/doc/crio-manager/examples contrib/cni/10-bridge.conflist
	install -d -m 0755 $(DESTDIR)$(SHARE)/bash-completion/completions $(DESTDIR)$(ZSH_COMPLETIONS) $(DESTDIR)$(SHARE)/fish/vendor_completions.d
	$(BIN)/crio-manager completion bash > $(DESTDIR)$(SHARE)/bash-completion/completions/crio-manager
	$(BIN)/crio-manager completion zsh > $(DESTDIR)$(ZSH_COMPLETIONS)/_crio-manager
	$(BIN)/crio-manager completion fish > $(DESTDIR)$(SHARE)/fish/vendor_completions.d/crio-manager.fish
	install -d -m 0755 $(DESTDIR)$(UNIT_DIR)
	for unit in contrib/systemd/*; do sed 's:/usr/local/bin/:$(PREFIX)/bin/:' $$unit > $(DESTDIR)$(UNIT_DIR)/$${unit##*/}; done

deb: release ## a Debian package of both programs, in target/deb
	@contrib/deb.sh target/deb

clean: ## remove what was built
	cargo clean
