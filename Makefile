# Shortcuts; .ci/run is what decides. Each target is one or two plain commands that can be typed as well.
.PHONY: help check fmt lint pure wasm browser hub doc test test-pure layers deny fixtures install hosts header miri fuzz ci

wasm32 := wasm32-unknown-unknown

help: ## these lines
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

check: fmt lint ## what to run before a commit, in about a minute when warm

fmt: ## rustfmt, in place
	cargo fmt --all

lint: ## clippy over everything
	cargo clippy --workspace --all-targets -- -D warnings

pure: ## clippy over the half without tensors: seconds
	cargo clippy -p bge_core --no-default-features --all-targets -- -D warnings

wasm: ## the same for the browser; needs `rustup target add wasm32-unknown-unknown`
	CLIPPY_CONF_DIR=$(CURDIR)/clippy-wasm cargo clippy -p bge_core --no-default-features --lib --target $(wasm32) -- -D warnings

browser: ## builds the npm package and the page and tests both; needs node, npm and chromium
	bge_wasm/build.sh tokens
	node --test bge_wasm/tests/package.mjs bge_wasm/tests/tools.mjs
	node examples/browser/tests/browser.mjs

hub: ## tests of fetching models, against a server on this machine
	cargo test --workspace --features bge_tests/hub --test tests hub

doc: ## API documentation, in target/doc
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

test: ## every test
	cargo test --workspace

test-pure: ## unit tests of the half without tensors: seconds
	cargo test -p bge_core --no-default-features --lib

layers: ## the picture of the layers, file lengths, banned crates
	cargo test -p bge_tests --no-default-features --test tests

deny: ## licences and bans; needs `cargo install cargo-deny`
	cargo deny check

fixtures: ## compare the golden numbers with FlagEmbedding again; needs Python with FlagEmbedding
	python3 tests/fixtures/parity/make_fixtures.py --check

install: ## libbge.{a,so}, headers, bge.pc and the CMake package, to PREFIX (/usr/local)
	bge_capi/install.sh $(or $(PREFIX),/usr/local)

hosts: ## programs in C, C++ and Go over installed libraries; needs what host_tools in .ci/run installs
	cargo build --release --workspace --lib
	bge_capi/tests/installed.sh $${CARGO_TARGET_DIR:-target}/release
	go/check.sh $${CARGO_TARGET_DIR:-target}/release
	examples/cpp_search/search_test.sh $${CARGO_TARGET_DIR:-target}/release

miri: ## the code that reads C's pointers, under Miri; needs `rustup +nightly component add miri rust-src`
	MIRIFLAGS=-Zmiri-permissive-provenance cargo +nightly miri test -p bge_capi --lib -- text guard handle error

fuzz: ## calls of the C interface as bytes say, for FOR seconds (60); needs nightly and `cargo install cargo-fuzz`
	cp Cargo.lock bge_capi/fuzz/
	cd bge_capi && cargo +nightly fuzz run calls -- -max_total_time=$(or $(FOR),60) -timeout=20

header: ## write include/bge.h from the sources
	UPDATE=1 cargo test -p bge_capi --test header

ci: ## all that lands or rejects a change
	.ci/run
