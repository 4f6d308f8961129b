"""The module sender_domain, run by Ansible, asks a DNS server on loopback."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from testbed.paths import CHECKOUT

ANSIBLE = Path(sys.executable).parent / "ansible"


@dataclass(slots=True)
class DnsServer(asyncio.DatagramProtocol):
    """Answers TXT queries from `records`, others and unknown names with NXDOMAIN; says nothing if `silent`."""

    records: dict[str, list[str]]
    silent: bool = False
    asked: list[str] = field(default_factory=list)
    transport: asyncio.DatagramTransport | None = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        self.asked.append(name)
        if self.silent or self.transport is None:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if texts := self.records.get(name):
            # A string in a TXT record holds at most 255 bytes.
            quoted = [" ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200)) for text in texts]
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", *quoted))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), addr)

    @property
    def address(self) -> str:
        host, port = self.transport.get_extra_info("sockname")[:2] if self.transport else ("", 0)
        return f"{host}:{port}"


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    server = DnsServer(
        {
            "example.com": ["v=spf1 include:_spf.example.net -all"],
            "_spf.example.net": ["v=spf1 ip4:192.0.2.1 -all"],
            "s1._domainkey.example.com": ["v=DKIM1; k=rsa; p=" + "A" * 392],
            "_dmarc.example.com": ["v=DMARC1; p=quarantine"],
        }
    )
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    server.transport = transport
    yield server
    transport.close()


async def look_up(server: DnsServer, **arguments: object) -> list[tuple[str, str]]:
    given = {"nameservers": [server.address], "timeout_seconds": 1, **arguments}
    command = [str(ANSIBLE), "localhost", "--inventory=localhost,", "--connection=local", "--module-name=sender_domain"]
    environment = {
        **os.environ,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_LIBRARY": "roles/preflight/library",
        "ANSIBLE_MODULE_UTILS": "roles/preflight/module_utils",
    }
    done = await asyncio.create_subprocess_exec(
        *command,
        "-a",
        json.dumps(given),
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await done.communicate()
    assert done.returncode == 0, printed.decode()
    result = json.loads(printed.decode().partition("=>")[2])
    assert result["changed"] is False
    return [(verdict["level"], verdict["sentence"]) for verdict in result["verdicts"]]


async def test_a_domain_that_is_well(server: DnsServer) -> None:
    found = await look_up(server, mail_from="News <news@example.com>", provider="sendgrid")
    assert found == [
        ("ok", "example.com has SPF (v=spf1 include:_spf.example.net -all)."),
        ("ok", "example.com has DKIM (s1._domainkey)."),
        ("ok", "example.com has DMARC (p=quarantine)."),
    ]


async def test_a_domain_without_records(server: DnsServer) -> None:
    found = await look_up(server, mail_from="news@example.org", selectors=["own"])
    assert [level for level, _ in found] == ["warning"] * 3
    assert {"example.org", "own._domainkey.example.org", "_dmarc.example.org"} == set(server.asked)


async def test_a_resolver_that_is_no_address(server: DnsServer) -> None:
    [(level, sentence)] = await look_up(server, mail_from="news@example.com", nameservers=["dns.example"])
    assert level == "warning"
    assert sentence.startswith("preflight_nameservers must hold addresses")


async def test_a_resolver_that_says_nothing(server: DnsServer) -> None:
    server.silent = True
    [(level, sentence)] = await look_up(server, mail_from="news@example.com")
    assert level == "warning"
    assert sentence.startswith("DNS can't be asked about example.com from this machine")
