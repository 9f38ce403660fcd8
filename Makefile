# Two commands do everything on a fresh Debian 12 machine: `make demo` and `make test`.

CARGO ?= cargo

.PHONY: help demo test build deps lint selftest clean

help:
	@echo 'make demo      install what is missing, build, and run the main job against a real target (root)'
	@echo 'make test      everything that can be tested here; says what it skips and why'
	@echo 'make build     release binaries in target/release'
	@echo 'make lint      rustfmt and clippy, as CI runs them'
	@echo 'make selftest  initiator and target in one process, without privileges'

deps:
	@control/demo/deps.sh

build: deps
	$(CARGO) build --release --workspace

demo: deps
	@$(CARGO) build --release -p aoe-control -p aoe-perf
	@control/demo/demo.sh

# One test program at a time, and one test in it where they poll: this has to work on two CPUs.
test: deps
	$(CARGO) test --workspace --no-fail-fast

lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

selftest:
	$(CARGO) run -p aoe-perf -- selftest

clean:
	$(CARGO) clean
