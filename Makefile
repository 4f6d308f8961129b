# `make` alone lists the verbs.
.DEFAULT_GOAL := help
.PHONY: dashboard logs alert-test lane-services lane-hosts lane-fleet help setup image demo demo-page demo-shell demo-inbox demo-down test test-long lint unit integration hosts first-contact watching e2e molecule test-down lock deploy rollback drain resume status verify retire secure

PYTHON := .venv/bin/python
# Molecule and ansible-lint look for Ansible there, and a user's PATH lacks iptables.
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin
# The test bed's containers need root; the other verbs don't. What root leaves in the checkout, its user couldn't delete.
# sudo has a PATH of its own, which knows no Node in a user's home.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo 'sudo --preserve-env=CI env PYTHONDONTWRITEBYTECODE=1 PATH="$(PATH)"')
DEMO_HOST ?= debian13
CLOUD_IMAGE ?= cloud
# Cluster, collection, upgrade and cloud take more time than a gate has. CLOUD_IMAGE=cloud-forky gives cloud Debian's
# next release.
SCENARIOS ?= deploy default hardening

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## Install what ansible-playbook needs into .venv
	@testbed/bootstrap.sh

image: ## Build the worker's image with podman or docker; roles/container/files/build-image tells the variables
	@roles/container/files/build-image

demo: ## Provision a bare VPS in a container and send a campaign of 1,000 through it
	@testbed/bootstrap.sh containers
	@$(SUDO) $(PYTHON) -m demo run --system $(DEMO_HOST) $(if $(DEMO_KILL),--kill) $(if $(DEMO_KEEP),--keep)

demo-page: ## Show the demo's fleet on a page, at http://127.0.0.1:8025/
	@$(SUDO) $(PYTHON) -m demo page

demo-shell: ## Open a shell on the demo's VPS
	@$(SUDO) $(PYTHON) -m demo shell

demo-inbox: ## Show the mails that the demo's SMTP server accepted last
	@$(SUDO) $(PYTHON) -m demo inbox

demo-down: ## Remove everything that the demo started
	@$(SUDO) $(PYTHON) -m demo down

secure: ## Apply a change of keys, ports and firewall alone
deploy: ## Roll the worker and its settings out to all hosts (for these verbs: ARGS="--limit mail1 --ask-vault-pass")
rollback: ## Go back to the release that ran before
drain: ## Let hosts finish what they send, and take no more
resume: ## Let them take mails again
status: ## Show the hosts' releases and processes, and the queue
verify: ## Ask the services from each host, and see whether its processes send
retire: ## Drain hosts for good and wipe their secrets
dashboard: ## Show the fleet on a page at 127.0.0.1:8025, by a tunnel to the first host
	@$(PYTHON) playbooks/files/fleet_ssh.py dashboard $(ARGS)

logs: ## Show all hosts' logs: ARGS="-f", "-n 50", "-s 2h", "-g WORDS", "--limit mail1"
	@$(PYTHON) playbooks/files/fleet_ssh.py logs $(ARGS)

alert-test: ## Send one alert of each kind to whoever is told
secure deploy rollback drain resume status verify retire alert-test:
	@.venv/bin/ansible-playbook playbooks/$@.yml $(ARGS)

test: ## Run all tests: lint, unit, integration on real services, chaos, Molecule
	@testbed/bootstrap.sh lint containers browser
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=3 lane-services lane-hosts lane-fleet
	@$(MAKE) --no-print-directory test-down
	@echo "test: all passed"

test-long: ## Run what doesn't fit into a gate: the cluster, the collection, upgrades, cloud images, chaos with 10,000 recipients
	@testbed/bootstrap.sh lint containers
	@$(MAKE) --no-print-directory molecule SCENARIOS="cluster collection upgrade cloud"
	@$(MAKE) --no-print-directory molecule SCENARIOS=cloud CLOUD_IMAGE=cloud-forky
	$(SUDO) $(PYTHON) -m benchmarks.chaos
	$(SUDO) $(PYTHON) -m benchmarks.chaos --hold
	$(SUDO) $(PYTHON) -m benchmarks.bullmq_chaos --major 5
	$(SUDO) $(PYTHON) -m benchmarks.bullmq_chaos --major 6
	$(SUDO) $(PYTHON) -m benchmarks.bullmq_chaos --major 5 --node 2
	@$(MAKE) --no-print-directory test-down
	@echo "test-long: all passed"

lint:
	$(PYTHON) -m ruff format --check --quiet .
	$(PYTHON) -m ruff check --quiet .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/yamllint --strict .
	.venv/bin/ansible-lint -q --offline
	shellcheck roles/container/files/build-image roles/redis/files/broker-tell roles/redis/files/redis-* roles/guard/files/lockout-guard roles/firewall/files/remember-ssh-login playbooks/files/open-vaults testbed/bootstrap.sh testbed/lock.sh testbed/image/usr/local/lib/testbed/finish-image testbed/cloud/usr/local/lib/testbed/finish-cloud .ci/run

unit:
	$(PYTHON) -m pytest tests/unit tests/templates tests/contract

# Side by side: they wait more than they work. Within a lane one after the other, whatever --jobs says.
# Chaos comes last, when the fewest run beside it: Node's workers lose their locks on a machine that is too busy.
lane-services:
	@$(MAKE) --no-print-directory integration
	@$(MAKE) --no-print-directory e2e

lane-hosts:
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory hosts

lane-fleet:
	@$(MAKE) --no-print-directory molecule
	@$(MAKE) --no-print-directory watching
	@$(MAKE) --no-print-directory first-contact

integration:
	$(SUDO) $(PYTHON) -m testbed up test --services
	$(SUDO) $(PYTHON) -m pytest -p no:cacheprovider -m "not hosts and not watching" tests/integration

hosts:
	$(SUDO) $(PYTHON) -m testbed up hosts --services --vps 2
	$(SUDO) env TESTBED_INSTANCE=hosts $(PYTHON) -m pytest -p no:cacheprovider -m hosts --ignore=tests/integration/test_first_contact.py --ignore=tests/integration/test_quick_start.py tests/integration

# What a host goes through at its first run takes minutes of its own. Each of the two starts with a bare one.
first-contact:
	$(SUDO) env TESTBED_INSTANCE=contact $(PYTHON) -m pytest -p no:cacheprovider tests/integration/test_quick_start.py tests/integration/test_first_contact.py

watching:
	$(SUDO) $(PYTHON) -m testbed up watching --services
	$(SUDO) env TESTBED_INSTANCE=watching $(PYTHON) -m pytest -p no:cacheprovider -m watching tests/integration

e2e:
	$(SUDO) $(PYTHON) -m testbed up chaos --services
	$(SUDO) $(PYTHON) -m pytest -p no:cacheprovider tests/e2e

molecule:
	@for name in $(SCENARIOS); do $(SUDO) env CLOUD_IMAGE=$(CLOUD_IMAGE) molecule test --scenario-name $$name || exit; done

test-down: ## Remove everything that the tests started
	@for name in test hosts contact watching chaos bench molecule hardening deploy cluster collection redis upgrade cloud; do $(SUDO) $(PYTHON) -m testbed down $$name || exit; done

lock: ## Write uv.lock and the hosts' hash-locked lists anew after a change in pyproject.toml
	@testbed/lock.sh
