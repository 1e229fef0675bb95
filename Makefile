# A thin front to CMake.  `make demo` and `make test` work on a fresh Debian, Ubuntu or macOS: they
# install what is missing first.  BUILD names the build folder, CMAKE_FLAGS adds to its configuration.
BUILD ?= build
CMAKE_FLAGS ?=
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PREFIX ?= /usr/local

all: $(BUILD)/CMakeCache.txt
	cmake --build $(BUILD) -j $(JOBS)

demo:
	scripts/demo

test:
	scripts/setup test
	$(MAKE) all CMAKE_FLAGS="-DANNEAL_TESTS=ON $(CMAKE_FLAGS)"
	ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error

install: all
	cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf $(BUILD) build-sanitize build-fuzz build-bench build-mac

format:
	clang-format-14 -i $$(scripts/sources)

check-includes:
	scripts/check-includes

check-format:
	scripts/check-format

# The tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize:
	cmake -S . -B build-sanitize $(GENERATOR) -DCMAKE_C_COMPILER=clang-14 -DCMAKE_BUILD_TYPE=Debug \
		-DCMAKE_C_FLAGS="-O1 -Wno-pass-failed" -DANNEAL_SANITIZE=address,undefined
	cmake --build build-sanitize -j $(JOBS)
	ctest --test-dir build-sanitize -j $(JOBS) --output-on-failure

# Every fuzz target for FUZZ_SECONDS.
fuzz:
	scripts/fuzz $(FUZZ_SECONDS)

# Speed, beside oneDNN and PyTorch (PYTHON: of an environment that has it): docs/speed.md.
report: all bench
	scripts/speed-report --anneal $(BUILD)/anneal $(if $(PYTHON),--python $(PYTHON))

bench:
	cmake -S . -B build-bench $(GENERATOR) -DANNEAL_BENCH=ON -DANNEAL_TESTS=OFF
	cmake --build build-bench -j $(JOBS)

GENERATOR := $(if $(shell command -v ninja),-G Ninja,)
FUZZ_SECONDS ?= 20

.PHONY: all demo test install clean format check-includes check-format sanitize fuzz bench report FORCE

# CMake decides itself what has to be done again.
$(BUILD)/CMakeCache.txt: FORCE
	@cmake -S . -B $(BUILD) $(if $(wildcard $(BUILD)/CMakeCache.txt),,$(GENERATOR)) $(CMAKE_FLAGS) > $(BUILD).log 2>&1 \
		|| (cat $(BUILD).log; exit 1)
FORCE:
