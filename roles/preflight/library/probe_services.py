#!/usr/bin/python
"""Asks the mail server, the providers, Redis and Supabase from the host itself. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: probe_services
short_description: Asks the worker's services from the host that is to use them
description:
  - Connects to the services and returns one verdict for each finding. Logs in at Redis and Supabase alone.
  - Takes some ten seconds at the most, with all services unreachable.
options:
  host:
    description: What the sentences call the host.
    type: str
    required: true
  smtp_host:
    description: The mail server's name; empty to leave it out.
    type: str
    default: ""
  smtp_port:
    description: Its port in use.
    type: int
    default: 465
  smtp_other_ports:
    description: Ports that could be used instead.
    type: list
    elements: int
    default: []
  transport:
    description: How mails leave, C(smtp) or a key of O(http_providers).
    type: str
    default: smtp
  http_providers:
    description: Addresses of the providers' APIs.
    type: dict
    default: {}
  redis_url:
    description: Redis with user and password; empty to leave it out.
    type: str
    default: ""
  bullmq:
    description: The app's BullMQ queue in it, C(PREFIX:QUEUE); empty to leave it out.
    type: str
    default: ""
  job_package:
    description: The worker's package for reading jobs, as a zip file in base64; the action plugin adds it.
    type: str
    default: ""
  job_settings:
    description: How the queue's jobs are read, C(mail_from), C(fields), C(attachment_hosts) and C(placeholders).
    type: dict
    default: {}
  supabase_url:
    description: The Supabase project; empty to leave it out.
    type: str
    default: ""
  supabase_key:
    description: Its secret key.
    type: str
    default: ""
  supabase_tables:
    description: Tables that must be there, each with C(name) and C(columns); C(lookup) names the two columns by which
      rows are found, if that must be fast.
    type: list
    elements: dict
    default: []
  name:
    description: A name that the host must be able to look up, whatever the services are.
    type: str
    default: ""
  ca_certificates:
    description: PEM texts of authorities to trust beside the host's own.
    type: list
    elements: str
    default: []
  timeout_seconds:
    description: How long to wait for a connection, and again for an answer.
    type: float
    default: 5.0
author: mail-worker
"""

EXAMPLES = r"""
- name: Ask Redis
  probe_services:
    host: "{{ inventory_hostname }}"
    redis_url: "{{ preflight_redis_url }}"
"""

RETURN = r"""
verdicts:
  description: What was found, each with C(level) (ok, warning or failure), C(about) and C(sentence).
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.preflight.services import Questions, ask  # noqa: E402


def main() -> None:
    """Runs as a module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "smtp_host": {"type": "str", "default": ""},
            "smtp_port": {"type": "int", "default": 465},
            "smtp_other_ports": {"type": "list", "elements": "int", "default": []},
            "transport": {"type": "str", "default": "smtp"},
            "http_providers": {"type": "dict", "default": {}},
            "redis_url": {"type": "str", "default": "", "no_log": True},
            "bullmq": {"type": "str", "default": ""},
            # Long, and in each run the same.
            "job_package": {"type": "str", "default": "", "no_log": True},
            "job_settings": {"type": "dict", "default": {}},
            "supabase_url": {"type": "str", "default": ""},
            "supabase_key": {"type": "str", "default": "", "no_log": True},
            "supabase_tables": {"type": "list", "elements": "dict", "default": []},
            "name": {"type": "str", "default": ""},
            "ca_certificates": {"type": "list", "elements": "str", "default": []},
            "timeout_seconds": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    verdicts = ask(Questions(**module.params))
    module.exit_json(changed=False, verdicts=[verdict._asdict() for verdict in verdicts])


if __name__ == "__main__":
    main()
