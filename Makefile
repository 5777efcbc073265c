# The few verbs a person types. Set-up (Rust, a Vulkan driver, test tools) happens by itself; see scripts/setup.sh.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help demo web web-demo test test-quick fuzz lint bench quality docs setup setup-web setup-test fmt clean
help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: ## install what building needs
	@scripts/setup.sh build

setup-web: ## install what building for the browser needs
	@scripts/setup.sh web

setup-test: ## install what testing needs
	@scripts/setup.sh test

demo: setup ## convert, validate and run the embedded model with q4 and q3
	@scripts/demo.sh

web: setup-web ## build the runtime for the browser: WebAssembly, npm package, pages; print sizes
	@scripts/web.sh

web-demo: web ## serve the chat app with the embedded model and open it
	@scripts/web-demo.sh

test: setup-test ## all tests on a GPU or in software, in a real browser too
	@scripts/test.sh

fuzz: setup ## run every reader on made-up inputs: FUZZ_SECONDS=60 each
	@scripts/fuzz.sh

test-quick: setup-test ## unit tests alone, of everything but the slowest
	@XDG_RUNTIME_DIR=$${XDG_RUNTIME_DIR:-/tmp} cargo nextest run --lib --bins -E 'not (test(device_is_lost) | test(moments_in_integers))'

lint: setup-web ## formatting, clippy, rustdoc, TypeScript and prose, warnings as errors
	@scripts/lint.sh

bench: setup ## conversion and inference speed on the embedded model
	@scripts/bench.sh

quality: setup ## loss of every recipe on a real model: make quality VALID=wikitext-2-valid.txt TEST=wikitext-2-test.txt
	@scripts/quality.sh $(VALID) $(TEST)

docs: ## API documentation, man pages and command reference
	@scripts/docs.sh

fmt: setup-web ## format the code, Rust and TypeScript
	cargo fmt --all
	@scripts/npm-ci.sh && cd web && PATH="$(CURDIR)/.tools/node/bin:$$PATH" npm run --silent format

clean: ## remove what was built
	cargo clean
	rm -rf .tools web/node_modules web/dist web/site web/src/engine/generated
