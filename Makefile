# Two commands: `make demo` and `make test`. Each sets up what it needs, once.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait without spinning: on a busy machine this is worth several times the speed.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: help setup demo test lint gpu bench soak

help:
	@echo "make demo   the whole loop on simulated raters, then the page (SERVE=0 stops at the table, SEED=1 another seed)"
	@echo "make test   lint and every test"
	@echo "make soak   campaigns that take long: kill -9 and resume (NAME=resume runs one, STAGE=sft a slice of it)"
	@echo "make lint   ruff, pyright and the house's rules"
	@echo "make gpu    every stage on one CUDA GPU: peak memory of a 0.5B and an 8B shape, as JSON lines"
	@echo "make bench  NAME=x: the figures of tests/benchmarks/x.py, as one JSON object on the last line"

.venv/ready: pyproject.toml constraints.txt launch/setup.sh
	PYTHON=$(PYTHON) bash launch/setup.sh
	@touch $@

setup: .venv/ready

demo: setup
	$(BIN)/python -m prefloop.launch.demo --seed $(or $(SEED),0) $(if $(filter 0,$(SERVE)),--no-serve)

lint: setup
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/pytest tests/test_house.py

test: lint
	bash launch/setup.sh browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# On one CUDA GPU, a network not needed; elsewhere each test says that it is skipped.
gpu: setup
	$(BIN)/pytest -s tests/gpu

bench: setup
	$(BIN)/python tests/benchmarks/$(NAME).py

soak: setup
	$(if $(NAME),,SOAK=1 $(BIN)/pytest)
	for campaign in $(or $(NAME:%=tests/soak/%.py),tests/soak/*.py); do $(BIN)/python $$campaign $(STAGE) || exit 1; done
