# make demo and make test are each enough on a fresh machine: they build .venv first (minutes once, seconds after).
PYTHON ?= $(shell for p in python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := plugins/lerobot_env_robot_value plugins/lerobot_policy_robot_value plugins/lerobot_robot_robot_value
ARGS ?=

.PHONY: demo test install lint format bench coverage constraints clean

demo: install
	$(BIN)/robot-value demo $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/robot-value bench $(ARGS)

coverage: install
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

install: $(STAMP)

$(STAMP): setup.py requirements/constraints.txt requirements/debian.txt $(wildcard plugins/*/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "robot_value needs Python >= 3.12 (python3.12 on PATH); found none"; exit 1; }
	sh requirements/debian.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[all]' $(PLUGINS:%=-e %)
	touch $(STAMP)

constraints: install
	{ head -n 1 requirements/constraints.txt; $(BIN)/pip freeze --exclude-editable; } > requirements/constraints.new
	mv requirements/constraints.new requirements/constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info outputs
