# Everything starts here: `make help`. Each target first makes the environments that it needs, from
# the hash-locked requirements/*.txt; all that it takes is make, git and Python 3.11 or newer.

PYTHON ?= python3
ARGS   ?=
ENV    ?= default
FN     ?= AlertFunction
EVENT  ?= events/alert.json

.DEFAULT_GOAL := help

# The environments. A stamp says which python made it: another PYTHON makes it anew.
stamp := made-by-$(subst /,_,$(PYTHON))
uv    := .tools/uv/$(stamp)
venv  := .venv/$(stamp)
sam   := .tools/sam/$(stamp)
aws   := .tools/aws/$(stamp)
tools := .tools/scan/$(stamp) .tools/checkov/$(stamp)

# sam finds uv here (for the layer), and the rest finds sam. MAKE…: the make that sam starts for the
# layer is none of this one's.
with_tools = PATH="$(CURDIR)/.tools/uv/bin:$(CURDIR)/.tools/sam/bin:$$PATH" MAKEFLAGS= MAKELEVEL=
export SAM_CLI_TELEMETRY := 0
# Many containers set it. Here it would have sam and every worker of the emulator compile its
# imports again at each start.
unexport PYTHONDONTWRITEBYTECODE

run: $(venv) $(sam) $(aws) ## Deploy to an embedded AWS, run simulated devices, check the result: ARGS="--for 30s"
	@$(with_tools) .venv/bin/python -m local run $(ARGS)

up: $(venv) $(sam) $(aws) ## Deploy to an embedded AWS and leave it running.
	@$(with_tools) .venv/bin/python -m local up $(ARGS)

down: $(venv) ## Stop the embedded AWS.
	@.venv/bin/python -m local down $(ARGS)

test: $(venv) $(sam) $(aws) ## Run the tests; one tier alone: ARGS=tests/unit
	@$(with_tools) .venv/bin/python -m tests $(ARGS)

# It needs a Chromium, and ends with 3 where none is. ACCEPT=3: that will do.
browser: $(venv) $(sam) $(aws) ## Try in a real Chromium what web pages may do to an instance: ACCEPT=3
	@$(with_tools) .venv/bin/python -m tests.browser $(ARGS) || \
		{ code=$$?; [ $$code = "$(ACCEPT)" ] || exit $$code; }

# What a handler or an adapter would import: the layer's package.
contract = PYTHONPATH=layers/telemetry .venv/bin/python -m contract
schemas: $(venv) ## Check schemas/, and write what derives from it and from rules.yaml: ARGS=--check
	@$(contract) $(ARGS)

# Its three slow parts at once: most of each keeps one processor busy.
check: $(venv) $(sam) ## Lint, format, types; the template, by AWS's rules; the project's own (tests/test_tidy.py).
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

# ACCEPT=3: also where something can't be looked at, for want of a network or of npm.
scan: $(venv) $(tools) ## Look for known faults: template, code, dependencies, secrets: ACCEPT=3
	@.venv/bin/python -m scan $(ARGS) || { code=$$?; [ $$code = "$(ACCEPT)" ] || exit $$code; }

# What `make schemas` would change isn't deployed: stale filters let no breach of a new rule through.
check-derived: $(venv)
	@$(contract) --check

build: check-derived $(uv) $(sam) ## Build the functions and the layer for AWS: ENV=default
	@$(with_tools) sam build --config-env $(ENV)

deploy: $(venv) ## Build, and deploy an environment of samconfig.toml with your AWS credentials: ENV=default
	@.venv/bin/python -m ops.environment deploy --env "$(ENV)" $(ARGS)
	@$(MAKE) --no-print-directory build
	@$(with_tools) sam deploy --config-env $(ENV) $(ARGS)

remove: $(venv) $(sam) ## Delete an environment's stack, and keep its data (docs/operations.md): ENV=default
	@.venv/bin/python -m ops.environment remove --env "$(ENV)" $(ARGS)
	@$(with_tools) sam delete --config-env $(ENV) $(ARGS)

adopt: $(venv) ## Make a stack of what a deleted one has left, before `make deploy`, on AWS: ENV=default
	@.venv/bin/python -m ops adopt --env $(ENV) $(ARGS)

devices: $(venv) ## List the devices with last seen, on AWS; it reads whole tables: ENV=default
	@.venv/bin/python -m ops devices --env $(ENV) $(ARGS)

redrive: $(venv) ## Try again what was given up, on AWS: ENV=default
	@.venv/bin/python -m ops redrive --env $(ENV) $(ARGS)

quarantine: $(venv) ## See, release or drop what no retry mends, on AWS: ENV=default ARGS=list
	@.venv/bin/python -m ops quarantine $(ARGS) --env $(ENV)

replay: $(venv) ## Send a span of the archive back into the stream: ENV=default ARGS="--from … --to …"
	@.venv/bin/python -m ops replay --env $(ENV) $(ARGS)

invoke: $(venv) $(sam) ## Run one function in Docker, on the embedded AWS: FN=AlertFunction EVENT=events/alert.json
	@$(with_tools) .venv/bin/python -m local invoke $(FN) $(EVENT) $(ARGS)

events: $(venv) ## Write the events of events/ as if recorded now, for `sam local invoke`: ARGS=.aws-sam/events
	@.venv/bin/python -m local.events $(or $(ARGS),.aws-sam/events)

bench: $(venv) $(sam) $(aws) ## Measure imports, filters, mappings, then what a minute sustains with nothing lost.
	@.venv/bin/python benchmarks/imports.py
	@.tools/aws/bin/python benchmarks/filters.py
	@$(with_tools) .venv/bin/python -m benchmarks.mappings
	@$(with_tools) .venv/bin/python -m local run --for 60s $(ARGS)

soak: $(venv) $(sam) $(aws) ## Ten minutes of a steady load: is memory flat, and cost? ARGS="--for 3m"
	@$(with_tools) .venv/bin/python -m benchmarks.soak $(ARGS)

year: $(venv) $(sam) $(aws) ## Send a year of recorded temperatures through the pipeline; compare its months.
	@$(with_tools) .venv/bin/python -m benchmarks.year

kills: $(venv) $(sam) $(aws) ## Kill the mappings' engine 50 times while records flow: ARGS="--kills 50"
	@$(with_tools) .venv/bin/python -m tests.pipeline.killing $(ARGS)

busy: $(venv) $(sam) $(aws) ## Check a run, and planted faults, beside eight busy loops: ARGS="--loops 8"
	@$(with_tools) .venv/bin/python -m tests.pipeline.busy $(ARGS)

first-hour: ## Run the README's ten lines, as they are written, in a fresh clone.
	@$(PYTHON) -m tests.readme

metric: $(venv) $(sam) $(aws) ## Add a metric and a rule to a copy, by schema alone; deploy it, post, see the alert.
	@$(with_tools) .venv/bin/python -m tests.pipeline.adding

client-faults: $(venv) ## Kill a device's client, cut it off, answer it wrongly: ARGS="--for 5m"
	@PYTHONPATH=clients/python/src .venv/bin/python -m tests.client.faults $(ARGS)

SEEDS ?= 1000
simulate: $(venv) ## Run the pipeline under simulated faults: SEEDS=1000; one of them: ARGS="--seed 17"
	@.venv/bin/python -m tests.simulation $(if $(findstring --seed,$(ARGS)),,--seeds $(SEEDS)) $(ARGS)

fuzz: $(venv) $(sam) $(aws) ## Post damaged requests in every format; compare what is stored: ARGS="--for 10m"
	@$(with_tools) .venv/bin/python -m tests.fuzz $(ARGS)

conformance: $(venv) $(sam) $(aws) ## Run the tests of what AWS's mappings do; write the table in docs/.
	@$(with_tools) .venv/bin/python -m tests.conformance

compile = .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock' $(ARGS)
# What the Lambda runtime brings isn't in the layer: boto3 and what only boto3 needs.
not_in_layer = $(addprefix --no-emit-package ,boto3 botocore python-dateutil s3transfer six urllib3)
lock: $(uv) ## Lock requirements/*.in again; to newer versions: ARGS=--upgrade
	@$(compile) $(not_in_layer) requirements/layer.in --output-file layers/telemetry/requirements.txt
	@for each in dev aws sam uv scan checkov; do \
		$(compile) requirements/$$each.in --output-file requirements/$$each.txt || exit; done

clean: ## Remove environments, builds, caches and what runs have left; not an instance that is up.
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
