# make run    the main job: a trained checkpoint in, a verified bundle with a TensorRT engine out
# make test   the tests
# Each makes its own .venv on a bare machine; nothing else needs to be installed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
LINKS  := build/links/plainconv

.PHONY: run test test-long test-slow lint cpp bench bench-cpp bench-export bench-reparam bench-runner bench-splits bench-serve bench-speed gpu clean

run: $(READY)
	$(BIN)/exporter run vanillanet_digits --checkpoint tests/assets/vanillanet_digits.pth \
	    --eval-data tests/assets/digits_heldout.npz --precision fp32,int8 -o out/digits --force

test: $(READY)
	@sh engines/cpp/cmake/onnxruntime_headers.sh engines/cpp/build/onnxruntime || true  # else the C++ tests are skipped
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu"

test-long: $(READY)  # many more examples, drawn at random
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "make test-long SEED=$$seed"; \
	    $(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu" --timeout 3600 --hypothesis-profile long --hypothesis-seed $$seed

test-slow: $(READY)
	$(BIN)/pytest -m "slow or gpu"

lint: $(READY) $(LINKS)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The package as folders of links: what mypy reads, and what runs where nothing can be installed (PYTHONPATH=build/links).
$(LINKS):
	mkdir -p $@
	for room in exporter engines models; do ln -sfn ../../../$$room $@/$$room; done

cpp: $(READY)
	sh engines/cpp/make.sh $(abspath $(BIN)/python)

bench: $(READY)  # the field side by side; a tool that is not installed is a row that says so: pip install -e .[bench]
	$(BIN)/python tests/benchmarks/bench_field.py

bench-cpp: cpp
	$(BIN)/exporter export vanillanet_digits --checkpoint tests/assets/vanillanet_digits.pth -o out/vd --force --quiet
	$(BIN)/exporter export vanillanet_5 --random-init 0 -o out/v5 --force --quiet
	engines/cpp/build/bundle-overhead out/vd out/v5

bench-export: $(READY)
	$(BIN)/python tests/benchmarks/bench_export.py

bench-reparam: $(READY)
	$(BIN)/python tests/benchmarks/bench_reparam.py

bench-runner: $(READY)
	$(BIN)/python tests/benchmarks/bench_runner.py

bench-splits: $(READY)
	$(BIN)/python tests/benchmarks/bench_splits.py

bench-speed: $(READY)
	$(BIN)/python tests/benchmarks/bench_speed.py

bench-serve: $(READY)
	$(BIN)/python tests/benchmarks/bench_serve.py

gpu: $(LINKS)  # everything that only a GPU shows, with what the machine has: nothing is installed
	PYTHONPATH=build/links:tests/helpers $$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) tests/benchmarks/gpu

$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c .ci/constraints.txt -e ".[dev]"
	$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; a file may be for a later Python
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
