# Everything that is run here is a script or a cargo command that can be run by hand as well.

CARGO := scripts/with-rust cargo
ARGS ?=

.PHONY: help setup demo kgctl test bench fmt lint doc docs manifests fuzz clean

help:
	@echo "make demo [ARGS=--keep]   bring up a mesh over three locations on this machine and look at it"
	@echo "make kgctl                build the command line, target/release/kgctl"
	@echo "make test                 everything that CI runs"
	@echo "make bench                how fast it is, compared with others"
	@echo "make fmt lint doc fuzz    the same in parts; fuzz takes ARGS='SECONDS [TARGET...]'"
	@echo "make docs                 write anew what in docs/ is made of the code"
	@echo "make manifests            write manifests/ anew from charts/kilo"
	@echo "make setup                install what the above need (Debian 12, as root)"

setup:
	scripts/setup test

demo:
	@scripts/demo $(ARGS)

kgctl:
	scripts/setup
	$(CARGO) build --release --locked --workspace --bin kgctl

test:
	@scripts/test

bench: setup
	scripts/bench $(ARGS)

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

lint:
	scripts/lint

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

docs:
	KGCTL_WRITE_DOCS=1 $(CARGO) test --quiet --workspace --locked --bin kgctl the_manual_in_docs
	KG_WRITE_DOCS=1 $(CARGO) test --quiet --workspace --locked --test golden the_pictures_in_docs
	KG_WRITE_DOCS=1 $(CARGO) test --quiet --workspace --locked --lib documentation
	KG_WRITE_DOCS=1 $(CARGO) test --quiet --workspace --locked --lib the_manual_in_docs
	KG_WRITE_DOCS=1 $(CARGO) test --quiet --workspace --locked --test golden documented

manifests:
	KG_WRITE_MANIFESTS=1 $(CARGO) test --quiet --workspace --locked --test e2e the_manifests_are_what

fuzz:
	scripts/fuzz $(ARGS)

clean:
	$(CARGO) clean
	rm -rf artifacts fuzz/target fuzz/corpus fuzz/artifacts
