# Start with `make help`. Each target first makes the environments that it needs, from the hash-locked
# requirements/*.txt. You need make, git and Python 3.11 or newer.

PYTHON ?= python3
ARGS   ?=
ENV    ?= default
FN     ?= AlertFunction
EVENT  ?= events/alert.json

.DEFAULT_GOAL := help

# The environments. A stamp names the python that made it, so another PYTHON makes it anew.
stamp := made-by-$(subst /,_,$(PYTHON))
uv    := .tools/uv/$(stamp)
venv  := .venv/$(stamp)
sam   := .tools/sam/$(stamp)
aws   := .tools/aws/$(stamp)
tools := .tools/scan/$(stamp) .tools/checkov/$(stamp)

# PATH: sam needs uv (for the layer), and the other programs need sam. MAKE…: sam starts a make for
# the layer, which mustn't take it for a part of this make.
with_tools = PATH="$(CURDIR)/.tools/uv/bin:$(CURDIR)/.tools/sam/bin:$$PATH" MAKEFLAGS= MAKELEVEL=
export SAM_CLI_TELEMETRY := 0
# Many containers set it. With it, sam and each worker of the emulator would compile their imports
# again at each start.
unexport PYTHONDONTWRITEBYTECODE

run: $(venv) $(sam) $(aws) ## Deploy to an embedded AWS, run simulated devices, check the result: ARGS="--for 30s"
	@$(with_tools) .venv/bin/python -m local run $(ARGS)

up: $(venv) $(sam) $(aws) ## Deploy to an embedded AWS and leave it running.
	@$(with_tools) .venv/bin/python -m local up $(ARGS)

down: $(venv) ## Stop the embedded AWS.
	@.venv/bin/python -m local down $(ARGS)

test: $(venv) $(sam) $(aws) ## Run the tests; a single tier: ARGS=tests/unit
	@$(with_tools) .venv/bin/python -m tests $(ARGS)

# It needs a Chromium, and ends with 3 without one. ACCEPT=3 makes that a success.
browser: $(venv) $(sam) $(aws) ## Test in a real Chromium that web pages can't use an instance: ACCEPT=3
	@$(with_tools) .venv/bin/python -m tests.browser $(ARGS) || \
		{ code=$$?; [ $$code = "$(ACCEPT)" ] || exit $$code; }

# The contract imports the layer's package, as handlers do.
contract = PYTHONPATH=layers/telemetry .venv/bin/python -m contract
schemas: $(venv) ## Check schemas/ and rules.yaml, and write the files made from them: ARGS=--check
	@$(contract) $(ARGS)

# The three slow parts run at once: each keeps mostly one processor busy.
check: $(venv) $(sam) ## Check lint, format, types, the templates, and the project's rules (tests/test_tidy.py).
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	@$(MAKE) --no-print-directory --jobs 3 check-types check-templates check-rules

check-types: $(venv)
	.venv/bin/mypy

check-templates: $(venv) $(sam)
	.venv/bin/cfn-lint template.yaml stacks/*.yaml
	$(with_tools) sam validate --lint

check-rules: $(venv) check-derived
	.venv/bin/python -m pytest --quiet tests/test_tidy.py tests/test_docs.py tests/template

# It ends with 3 if a check needs a network or npm that isn't there. ACCEPT=3 makes that a success.
scan: $(venv) $(tools) ## Look for known faults: template, code, dependencies, secrets: ACCEPT=3
	@.venv/bin/python -m scan $(ARGS) || { code=$$?; [ $$code = "$(ACCEPT)" ] || exit $$code; }

# A deployment is refused if `make schemas` would change a file: a stale filter hides new breaches.
check-derived: $(venv)
	@$(contract) --check

build: check-derived $(uv) $(sam) ## Build the functions and the layer for AWS: ENV=default
	@$(with_tools) sam build --config-env $(ENV)

deploy: $(venv) ## Build, and deploy an environment of samconfig.toml with your AWS credentials: ENV=default
	@.venv/bin/python -m ops.environment deploy --env "$(ENV)" $(ARGS)
	@$(MAKE) --no-print-directory build
	@$(with_tools) sam deploy --config-env $(ENV) $(ARGS)

remove: $(venv) $(sam) ## Delete an environment's stack and keep its data (docs/operations.md): ENV=default
	@.venv/bin/python -m ops.environment remove --env "$(ENV)" $(ARGS)
	@$(with_tools) sam delete --config-env $(ENV) $(ARGS)

adopt: $(venv) ## Import the data that a deleted stack left, before `make deploy`, on AWS: ENV=default
	@.venv/bin/python -m ops adopt --env $(ENV) $(ARGS)

devices: $(venv) ## List the devices and when each was last seen, on AWS; reads whole tables: ENV=default
	@.venv/bin/python -m ops devices --env $(ENV) $(ARGS)

redrive: $(venv) ## Process given-up batches again, on AWS: ENV=default
	@.venv/bin/python -m ops redrive --env $(ENV) $(ARGS)

quarantine: $(venv) ## List, show, release or drop quarantined records, on AWS: ENV=default ARGS=list
	@.venv/bin/python -m ops quarantine $(ARGS) --env $(ENV)

replay: $(venv) ## Send a span of the archive back into the stream: ENV=default ARGS="--from … --to …"
	@.venv/bin/python -m ops replay --env $(ENV) $(ARGS)

invoke: $(venv) $(sam) ## Run one function in Docker, on the embedded AWS: FN=AlertFunction EVENT=events/alert.json
	@$(with_tools) .venv/bin/python -m local invoke $(FN) $(EVENT) $(ARGS)

events: $(venv) ## Write copies of events/ with the times of now, for `sam local invoke`: ARGS=.aws-sam/events
	@.venv/bin/python -m local.events $(or $(ARGS),.aws-sam/events)

bench: $(venv) $(sam) $(aws) ## Measure imports, filters, mappings, and the rate of a one-minute run.
	@.venv/bin/python benchmarks/imports.py
	@.tools/aws/bin/python benchmarks/filters.py
	@$(with_tools) .venv/bin/python -m benchmarks.mappings
	@$(with_tools) .venv/bin/python -m local run --for 60s $(ARGS)

soak: $(venv) $(sam) $(aws) ## Check that memory and cost stay flat for ten minutes of load: ARGS="--for 3m"
	@$(with_tools) .venv/bin/python -m benchmarks.soak $(ARGS)

year: $(venv) $(sam) $(aws) ## Send a year of recorded temperatures through the pipeline; compare its months.
	@$(with_tools) .venv/bin/python -m benchmarks.year

kills: $(venv) $(sam) $(aws) ## Kill the mappings' engine 50 times while records flow: ARGS="--kills 50"
	@$(with_tools) .venv/bin/python -m tests.pipeline.killing $(ARGS)

busy: $(venv) $(sam) $(aws) ## Check the verdicts of runs on a busy machine, with planted faults: ARGS="--loops 8"
	@$(with_tools) .venv/bin/python -m tests.pipeline.busy $(ARGS)

first-hour: ## Run the README's ten lines, exactly as written, in a fresh clone.
	@$(PYTHON) -m tests.readme

metric: $(venv) $(sam) $(aws) ## Add a metric and a rule to a copy, by schema alone; deploy it and see the alert.
	@$(with_tools) .venv/bin/python -m tests.pipeline.adding

client-faults: $(venv) ## Test a device's client under kills, cut connections, wrong answers: ARGS="--for 5m"
	@PYTHONPATH=clients/python/src .venv/bin/python -m tests.client.faults $(ARGS)

SEEDS ?= 1000
simulate: $(venv) ## Run the pipeline under simulated faults: SEEDS=1000; a single seed: ARGS="--seed 17"
	@.venv/bin/python -m tests.simulation $(if $(findstring --seed,$(ARGS)),,--seeds $(SEEDS)) $(ARGS)

fuzz: $(venv) $(sam) $(aws) ## Post damaged requests in every format; check the stored readings: ARGS="--for 10m"
	@$(with_tools) .venv/bin/python -m tests.fuzz $(ARGS)

conformance: $(venv) $(sam) $(aws) ## Compare the mappings with AWS's behaviour; write the table in docs/.
	@$(with_tools) .venv/bin/python -m tests.conformance

compile = .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock' $(ARGS)
# The layer leaves out the packages of the Lambda runtime: boto3 and its own dependencies.
not_in_layer = $(addprefix --no-emit-package ,boto3 botocore python-dateutil s3transfer six urllib3)
lock: $(uv) ## Lock requirements/*.in again; with newer versions: ARGS=--upgrade
	@$(compile) $(not_in_layer) requirements/layer.in --output-file layers/telemetry/requirements.txt
	@for each in dev aws sam uv scan checkov; do \
		$(compile) requirements/$$each.in --output-file requirements/$$each.txt || exit; done

clean: ## Remove environments, builds, caches and ended runs' folders; an instance that is up stays.
	@$(PYTHON) -B requirements/clean.py

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1@/p' Makefile | awk -F@ '{ printf "make %-13s %s\n", $$1, $$2 }'

$(uv): requirements/uv.txt
	@$(PYTHON) requirements/sync.py $@ $<
$(venv): requirements/dev.txt | $(uv)
	@$(PYTHON) requirements/sync.py $@ $<

.tools/%/$(stamp): requirements/%.txt | $(uv)
	@$(PYTHON) requirements/sync.py $@ $<

.PHONY: run up down test browser schemas check check-types check-templates check-rules check-derived scan build deploy remove adopt devices redrive quarantine replay invoke events bench soak year kills busy first-hour metric client-faults simulate fuzz conformance lock clean help
