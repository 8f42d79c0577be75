# Every verb says what it does in a `##` comment; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo fleet-demo build fmt lint check test-quick services test test-matrix sim crash-matrix chaos load fuzz bench bench-transfer crash-table celery bends deny doc snap dist

CARGO   ?= cargo
TARGET  := $(or $(CARGO_TARGET_DIR),target)
WINDOWS := x86_64-pc-windows-gnu
# Everything that a run of the tests writes lies here until the next one, and is searched for secrets at its end.
RUN     := $(abspath $(TARGET))/test-run
IN_RUN  := LONGSHORE_TEST_DIR="$(RUN)" TMPDIR="$(RUN)/tmp"
# Decoders that a fuzzer tries. SQLite is linked twice into them, which the sanitizer would take for a mistake.
FUZZERS := job ticket hardware token blob inf package
# Peer of the fleet's bench and of the crash table: a Python of its own below target.
CELERY  := $(abspath $(TARGET))/clients/celery
# Peers of the transfer bench.
TOOLS   := $(abspath $(TARGET))/tools
AZURITE := $(TOOLS)/node_modules/azurite/dist/src/blob/main.js
AZCOPY  := $(TOOLS)/node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Five drivers from files to signed packages, through five kinds of trouble: needs nothing but this toolchain
	$(CARGO) build --locked
	@"$(TARGET)/debug/longshore" demo

fleet-demo: services ## A fleet on RabbitMQ and Redis: 200 submissions while workers, broker and memory fail: SEED=n JOBS=n
	@rm -rf "$(RUN)-fleet-demo" && mkdir -p "$(RUN)-fleet-demo/tmp"
	@LONGSHORE_TEST_DIR="$(RUN)-fleet-demo" TMPDIR="$(RUN)-fleet-demo/tmp" REQUIRE_SERVICES=1 \
	  $(CARGO) test --quiet --locked --test fleet_demo

build: ## Build the program, optimised, as target/release/longshore
	$(CARGO) build --release --locked

fmt: ## Format the code
	$(CARGO) fmt

lint: ## Clippy over everything, warnings denied
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --test load --test fleet_demo --locked -- -D warnings

check: ## Format, clippy, rustdoc, architecture and, where its target is installed, Windows
	$(CARGO) fmt --check
	$(MAKE) --no-print-directory lint
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked
	$(CARGO) test --locked --test architecture
	@if rustc --print target-libdir --target $(WINDOWS) 2>/dev/null | xargs -r test -d; then \
	  $(CARGO) check --locked --target $(WINDOWS); \
	else \
	  echo "check: skipped $(WINDOWS), its target is not installed (rustup target add $(WINDOWS))"; \
	fi

test-quick: ## The tests beside the code, before every commit
	$(CARGO) test --locked --lib

services: ## Install what the tests of the fleet need, where it is missing: RabbitMQ, Redis, clients for Python and Node
	@tests/servers/install

test: services ## All tests but load run and benches, then the search for secrets in everything they wrote
	@rm -rf "$(RUN)" && mkdir -p "$(RUN)/tmp"
	$(IN_RUN) $(CARGO) test --locked
	$(IN_RUN) LONGSHORE_SEARCH_SECRETS=1 $(CARGO) test --locked --test secrets -- --nocapture no_file_of_this_run

test-matrix: services ## The fleet's tests on RabbitMQ 4.0, 4.3 and three nodes, Valkey 9, Redis 8 (by hand, as root): VERSION=4.0 SUITES="fleet ports"
	@CARGO="$(CARGO)" tests/servers/matrix

load: ## 200 submissions over 4 workers, a SIGKILL every 2 s, lost answers and 5xx: SEED=n JOBS=n (minutes)
	@rm -rf "$(RUN)-load" && mkdir -p "$(RUN)-load/tmp"
	LONGSHORE_TEST_DIR="$(RUN)-load" TMPDIR="$(RUN)-load/tmp" $(CARGO) test --locked --test load

sim: ## Seeds of faults against the real engine: SEEDS=n FIRST=m TRACE=1
	SEEDS="$${SEEDS:-5000}" FIRST="$${FIRST:-0}" $(CARGO) test --locked --test sim -- --nocapture

crash-matrix: ## Kill a worker at every named point of every step, and let another go on: CRASH_CELLS=all|quarter|NAME CRASH_JOBS=n
	@mkdir -p "$(RUN)/tmp"
	CRASH_CELLS="$${CRASH_CELLS:-all}" $(IN_RUN) $(CARGO) test --locked --test crash -- --nocapture

chaos: services ## The fleet under fire, a pair of faults a round, for MINUTES=n: SEED=m PAIR=FAULT/SERVICE
	@rm -rf "$(RUN)-chaos" && mkdir -p "$(RUN)-chaos/tmp"
	CHAOS_MINUTES="$(or $(MINUTES),10)" CHAOS_SEED="$(SEED)" CHAOS_PAIR="$(PAIR)" RUST_BACKTRACE=0 \
	  LONGSHORE_TEST_DIR="$(RUN)-chaos" TMPDIR="$(RUN)-chaos/tmp" \
	  $(CARGO) test --locked --test chaos -- --ignored --nocapture --exact chaos_goes_on_for_as_long_as_asked

fuzz: ## Every decoder under a fuzzer, where a nightly toolchain and cargo-fuzz are there: FUZZ_SECONDS=n for each
	@if ! $(CARGO) +nightly --version >/dev/null 2>&1; then \
	  echo "fuzz: skipped, no nightly toolchain is installed (rustup toolchain install nightly)"; \
	elif ! $(CARGO) fuzz --version >/dev/null 2>&1; then \
	  echo "fuzz: skipped, cargo-fuzz is not installed (cargo install cargo-fuzz --locked)"; \
	else \
	  set -e; for target in $(FUZZERS); do \
	    echo "fuzz: $$target"; mkdir -p "fuzz/corpus/$$target"; \
	    ASAN_OPTIONS=detect_odr_violation=0 $(CARGO) +nightly fuzz run --fuzz-dir fuzz "$$target" "fuzz/corpus/$$target" "fuzz/seeds/$$target" -- -max_total_time="$${FUZZ_SECONDS:-20}" -rss_limit_mb=4096 -verbosity=0; \
	  done; \
	fi

bench: services celery ## A worker alone, then the fleet, figures beside their goals: BENCH=noop,idle,quota,tokens,parked,fair,recovery
	@if test -z "$(BENCH)"; then $(CARGO) bench --locked --bench worker; fi
	BENCH="$(BENCH)" $(CARGO) bench --locked --bench fleet

crash-table: services celery ## Jobs lost, doubled and left when workers are killed, ours and Celery's (by hand): JOBS=n KILLS=n
	BENCH=crash-table $(CARGO) bench --locked --bench fleet

celery:
	@test -x "$(CELERY)/bin/celery" || { echo "celery: installing"; mkdir -p "$(CELERY)" && python3 -m venv "$(CELERY)" && \
	  "$(CELERY)/bin/pip" install --quiet --disable-pip-version-check celery==5.7.0; } || \
	  { rm -rf "$(CELERY)"; echo "celery: could not be installed; it is left out"; }

bench-transfer: ## 1 GiB to the sandbox and to Azurite, interrupted twice, beside azcopy (npm installs both)
	@mkdir -p "$(TOOLS)"; if ! test -e "$(AZURITE)" || ! test -e "$(AZCOPY)"; then \
	  if command -v npm >/dev/null; then \
	    npm install --prefix "$(TOOLS)" --no-audit --no-fund azurite@3.37.0 @azure-tools/azcopy-linux@10.32.2; \
	  else echo "bench-transfer: npm is not installed; the sandbox alone is measured"; fi; \
	fi
	@test ! -e "$(AZCOPY)" || { chmod +x "$(AZCOPY)"; "$(AZCOPY)" --version >/dev/null 2>&1; } || \
	  { command -v apt-get >/dev/null && test "$$(id -u)" = 0 && apt-get install -qq -y --no-install-recommends libsecret-1-0; } || \
	  echo "bench-transfer: azcopy does not start; it needs: apt-get install libsecret-1-0"
	AZURITE="$(AZURITE)" AZCOPY="$(AZCOPY)" $(CARGO) bench --locked --bench transfer

bends: ## Leave out one rule at a time and show the seed that finds it (by hand, minutes each)
	tests/bends/run.py

deny: ## Supply chain: advisories, licences, bans, sources (ADVISORY_DB: a stored database, for use offline)
	@.ci/deny

doc: ## Build the API documentation
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked

snap: ## Show the snapshots that changed, then accept them one by one
	@if $(CARGO) insta --version >/dev/null 2>&1; then \
	  $(CARGO) insta review; \
	else \
	  find src tests -name '*.snap.new' | sort | while read -r new; do \
	    old="$${new%.new}"; [ -e "$$old" ] || old=/dev/null; diff -u "$$old" "$$new" || true; \
	    echo "accept: mv $$new $${new%.new}"; \
	  done; \
	fi

dist: build ## Pack program, licences and configuration into target/dist, with a SHA-256
	@set -e; \
	version=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1); \
	name=longshore-$$version-$$(rustc -vV | sed -n 's/^host: //p'); \
	rm -rf "$(TARGET)/dist/$$name"; mkdir -p "$(TARGET)/dist/$$name"; \
	cp "$(TARGET)/release/longshore" LICENSE-MIT LICENSE-APACHE CHANGELOG.md "$(TARGET)/dist/$$name/"; \
	cp -r config "$(TARGET)/dist/$$name/config"; \
	tar -C "$(TARGET)/dist" --sort=name --owner=0 --group=0 --numeric-owner -czf "$(TARGET)/dist/$$name.tar.gz" "$$name"; \
	cd "$(TARGET)/dist"; sha256sum "$$name.tar.gz" | tee "$$name.tar.gz.sha256"
