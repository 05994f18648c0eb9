# relict: `make demo` shows it at work on real data, `make test` runs every test. Each does its own set-up.

# Where rustup puts the toolchain, for shells that do not know it.
export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo
PROFILE := --release
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := $(TARGET)/compat-venv
export RELICT_PYTHON ?= $(abspath $(VENV))/bin/python

.PHONY: demo test survive lint fmt bench peers setup build compat clean

demo: build
	tests/demo.sh $(TARGET)/release

test: build compat
	tests/run.sh

# Every fault that the promise in SPEC.md section 16 speaks of, some ten thousand times. Takes hours.
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

clean:
	$(CARGO) clean
