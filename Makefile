# The few verbs a person types. Set-up (Rust, a Vulkan driver, test tools) happens by itself; see scripts/setup.sh.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help demo test lint bench docs setup setup-test fmt clean
help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: ## install what building needs
	@scripts/setup.sh build

setup-test: ## install what testing needs
	@scripts/setup.sh test

demo: setup ## convert, validate and run the embedded model with q4 and q3
	@scripts/demo.sh

test: setup-test ## unit, kernel, command-line and end-to-end tests on a GPU or in software
	@scripts/test.sh

lint: ## formatting and clippy, warnings as errors
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: setup ## conversion and inference speed on the embedded model
	@scripts/bench.sh

docs: ## API documentation, man pages and command reference
	@scripts/docs.sh

fmt: ## format the code
	cargo fmt --all

clean: ## remove what was built
	cargo clean
	rm -rf .tools
