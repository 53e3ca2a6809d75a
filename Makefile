# The two commands that a newcomer needs: `make demo` makes pictures, `make test` passes the tests. Both set up first.
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
BUILD := build/release

# Checkouts at other paths and roots with the same compiler share the compiler cache.
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_COMPILERCHECK ?= content
export CCACHE_NOHASHDIR ?= 1

.DEFAULT_GOAL := build
.PHONY: setup configure build cuda demo test check-fresh test-asan test-python test-tsan test-torch lint format bench install clean

setup:
	@tools/setup/install-packages.sh

configure: setup
	@cmake --preset release

build: configure
	@cmake --build $(BUILD) --parallel $(JOBS)

# The plug-in for NVIDIA GPUs, for every architecture, with the command that opens it; needs the CUDA toolkit. Where cuDNN is
# installed, its front end looks at every graph of ours.
cuda: setup
	@tools/setup/install-cudnn-frontend.sh build/cudnn-frontend
	@cmake --preset cuda
	@cmake --build build/cuda --parallel $(JOBS) --target rondo_command rondo_cuda cudnn_graphs_test
	@ctest --test-dir build/cuda --output-on-failure -R '^cudnn_graphs$$'

# Only the command, so that a first picture comes sooner.
demo: configure
	@cmake --build $(BUILD) --parallel $(JOBS) --target rondo_command
	@tools/demo.sh $(BUILD)/rondo build/demo

test: build test-asan test-python
	@ctest --test-dir $(BUILD) --output-on-failure

# The two commands of the README in a fresh Debian 12, as a newcomer meets them. Needs root rights and debootstrap; says so.
check-fresh:
	@tools/check_fresh.sh demo test

# The Python package, built as `pip install .` builds it, tested on NumPy arrays (on torch tensors too where the
# environment has torch). The compiler cache makes the second compilation of the library short.
test-python: build
	@python3 -m venv build/python-venv
	@CMAKE_CXX_COMPILER_LAUNCHER=ccache build/python-venv/bin/pip install --quiet --disable-pip-version-check . numpy
	@build/python-venv/bin/python -m unittest discover -s python/tests -p 'test_*.py'

# Unit, golden and kernel tests and the fuzzers' corpora under AddressSanitizer and UndefinedBehaviorSanitizer. Left out:
# what runs other programs, CPU levels beside one, devices' kernels (minutes each), what needs the CUDA emulation.
ASAN_WITHOUT := command|installed_package|onednn3_syntax|ascend_prototypes|models\..*|kernels\.(baseline|avx512.*)|devices\.kernels\..*|devices\..*cuda.*
test-asan: setup
	@cmake --preset asan
	@cmake --build build/asan --parallel $(JOBS) --target unit_tests kernel_tests golden_tests fuzzers rondo_ascend ascend_simulator
	@LSAN_OPTIONS=suppressions=$(CURDIR)/tests/support/lsan.supp ctest --test-dir build/asan --output-on-failure -E '^($(ASAN_WITHOUT))$$'

# Left out beside those: tests whose ranks make the same oneDNN product or convolution at once, since the library, which is
# not instrumented, hands it from one to the other through a cache of its own; what has no threads and takes minutes.
TSAN_WITHOUT := $(ASAN_WITHOUT)|kernels\..*|devices\..*|.*Golden.*|.*PicturesByRows.*|SequenceParallel\.FluxTransformer.*
test-tsan: setup
	@cmake --preset tsan
	@cmake --build build/tsan --parallel $(JOBS) --target unit_tests golden_tests
	@ctest --test-dir build/tsan --output-on-failure -E '^($(TSAN_WITHOUT))$$'

# Makes the golden outputs anew with torch and diffusers (5 GB), in build/golden-venv, and runs the tests on them; then the
# Python package's tests, those on torch tensors and under diffusers included.
test-torch: build
	@python3 -m venv build/golden-venv
	@build/golden-venv/bin/pip install --quiet -r tools/golden/requirements.txt
	@build/golden-venv/bin/python tools/golden/make_golden.py
	@ctest --test-dir $(BUILD) --output-on-failure -R Golden
	@CMAKE_CXX_COMPILER_LAUNCHER=ccache build/golden-venv/bin/pip install --quiet .
	@build/golden-venv/bin/python -m unittest discover -s python/tests -p 'test_*.py'

lint: configure
	@tools/lint.sh $(BUILD)

format:
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i

bench: build
	@$(BUILD)/kernel_bench
	@$(BUILD)/rondo bench step --preset flux.1-dev --layers 1,2 --width 512 --height 512 --dtype float32

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf build
