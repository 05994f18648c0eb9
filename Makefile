# relict: `make demo` shows it at work on real data, `make test` runs every test. Each does its own set-up.

# Where rustup puts the toolchain, for shells that do not know it.
export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo
PROFILE := --release
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := $(TARGET)/compat-venv
export RELICT_PYTHON ?= $(abspath $(VENV))/bin/python

.PHONY: demo test survive lint fmt bench peers mounts setup build compat fuzz clean install uninstall

demo: build
	tests/demo.sh $(TARGET)/release

test: build compat
	tests/run.sh

# Every fault that the promise in SPEC.md section 20 speaks of, some ten thousand times. Takes hours.
survive: build
	tests/survive.sh

build: setup
	$(CARGO) build $(PROFILE) --workspace

setup:
	tests/setup.sh

# The second reader of the format: Python packages in an environment of their own.
compat: setup
	@test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	@$(VENV)/bin/python -c 'import blake3, zstandard, cryptography' 2>/dev/null || \
		$(VENV)/bin/python -m pip install --quiet -r tests/compat/requirements.txt

lint: setup
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

bench: build
	$(CARGO) bench --profile release

# relict and the tools it answers to, on the same data; `make peers DATA=dir` takes dir/v1 and dir/v2.
peers: build
	RELICT_BIN=$(abspath $(TARGET))/release benches/peers/run.sh $(DATA)

# The mount beside those of other tools and file systems; `make mounts SRC=dir IMAGE=file`. Needs root.
mounts: build
	RELICT_BIN=$(abspath $(TARGET))/release benches/mount/run.sh $(SRC) $(IMAGE)

# The programs, what mount(8) calls for `mount -t relict` and fstab, and the systemd unit. Takes what is built, so that
# root needs no toolchain: make build && sudo make install.
PREFIX ?= /usr
SBIN ?= /sbin
UNITS ?= /lib/systemd/system
DOCS ?= $(PREFIX)/share/doc/relict
install:
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(TARGET)/release/relict $(TARGET)/release/relict-maint
	install -d $(DESTDIR)$(SBIN)
	ln -sf $(PREFIX)/bin/relict $(DESTDIR)$(SBIN)/mount.relict
	install -D -m 644 -t $(DESTDIR)$(UNITS) contrib/relict-mount@.service
	install -D -m 644 -t $(DESTDIR)$(DOCS) contrib/smb.conf README.md SPEC.md

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/relict $(DESTDIR)$(PREFIX)/bin/relict-maint $(DESTDIR)$(SBIN)/mount.relict
	rm -f $(DESTDIR)$(UNITS)/relict-mount@.service $(DESTDIR)$(DOCS)/smb.conf $(DESTDIR)$(DOCS)/README.md $(DESTDIR)$(DOCS)/SPEC.md

# libFuzzer over the decoders, FUZZ_SECONDS for each target, of FUZZ_TARGETS or all; needs nightly Rust. Without that, and
# without knowing the code: RELICT_FUZZ_SECONDS=60 cargo test --release --test fuzz_corpus
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
fuzz:
	fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

clean:
	$(CARGO) clean
