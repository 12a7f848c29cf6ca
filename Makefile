# The same on Windows without make: python scripts/dev.py setup | run | test | check | bench
PYTHON ?= python3

.PHONY: setup run test check bench
setup run test check bench:
	@$(PYTHON) scripts/dev.py $@ $(ARGS)
