"""`make dashboard` and `make logs`: what an Ansible playbook can't do, since it shows nothing until its end.

Each host is reached by ssh as the inventory says (ansible_host, _user, _port, _ssh_private_key_file, _ssh_common_args,
_ssh_extra_args), and `mail-worker` run there by sudo."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GROUP = "mail_workers"
INVENTORY = Path(sys.executable).parent / "ansible-inventory"
PORT = 8025


def main() -> int:
    """Runs one verb."""
    parser = argparse.ArgumentParser(prog="make", description=__doc__)
    parser.add_argument("verb", choices=("dashboard", "logs"))
    parser.add_argument("-i", "--inventory", default="", metavar="PATH", help="instead of ansible.cfg's")
    parser.add_argument("--limit", default="", metavar="PATTERN", help="these hosts alone")
    parser.add_argument("--port", type=int, default=PORT, help="of the page, on this machine")
    parser.add_argument("--ask-vault-pass", action="store_true")
    parser.add_argument("--vault-password-file", default="", metavar="FILE")
    options, words = parser.parse_known_args()
    vault = ["--ask-vault-pass"] if options.ask_vault_pass else []
    vault += ["--vault-password-file", options.vault_password_file] if options.vault_password_file else []
    where = ["--inventory", options.inventory] if options.inventory else []
    hosts = list(read_hosts(inventory(options.limit, [*where, *vault])))
    if not hosts:
        print(
            f"The inventory has no host in {GROUP} that --limit {options.limit!r} leaves: see hosts.yml.",
            file=sys.stderr,
        )
        return 1
    try:
        return dashboard(hosts[0], options.port) if options.verb == "dashboard" else logs(hosts, words)
    except KeyboardInterrupt:
        return 130


def inventory(limit: str, further: list[str]) -> dict[str, Any]:
    """The inventory as ansible-inventory has it."""
    command = [str(INVENTORY), "--list", *further, *(["--limit", limit] if limit else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        # It has said why.
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read_hosts(found: dict[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """The workers, each with the commands that may log in there."""
    variables = found.get("_meta", {}).get("hostvars", {})
    for name in _members(found, GROUP):
        yield name, logins(name, variables.get(name, {}))


def logins(name: str, variables: dict[str, Any]) -> list[list[str]]:
    """How ssh may get to a host, the likeliest way first: after the first run the inventory's user may still be root,
    whose login is closed, and sshd may have moved, as roles/access has it."""
    user = str(variables.get("ansible_user", ""))
    port = str(variables.get("ansible_port", ""))
    admin = str(variables.get("access_admin_user", "")) or (user if user not in ("", "root") else "mailadmin")
    moved = str(variables.get("access_ssh_port", "") or "")
    ways = [(admin, moved)] if moved not in ("", "0", port) else []
    ways += [(admin, port), (user, port)]
    return [_login(name, variables, user, port) for user, port in dict.fromkeys(ways)]


def _login(name: str, variables: dict[str, Any], user: str, port: str) -> list[str]:
    command = ["ssh", *shlex.split(variables.get("ansible_ssh_common_args", ""))]
    command += shlex.split(variables.get("ansible_ssh_extra_args", ""))
    key = os.path.expanduser(str(variables.get("ansible_ssh_private_key_file", "")))  # noqa: PTH111  # may be empty
    for option, value in (("-p", port), ("-i", key), ("-l", user)):
        if value:
            command += [option, value]
    return [*command, str(variables.get("ansible_host", name))]


def reach(name: str, ways: list[list[str]]) -> list[str] | None:
    """The first of them that gets in; None with ssh's words shown if none does."""
    said = ""
    for command in ways:
        probe = [command[0], "-o", "BatchMode=yes", *command[1:], "true"]
        done = subprocess.run(probe, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            return command
        said = (done.stderr.strip().splitlines() or ["ssh says nothing"])[-1]
    print(f"{name} can't be reached ({said}): check its address, port, user and key in hosts.yml.", file=sys.stderr)
    return None


def dashboard(host: tuple[str, list[list[str]]], port: int) -> int:
    """Opens a tunnel to the page on a host, until Ctrl-C."""
    name, ways = host
    command = reach(name, ways)
    if command is None:
        return 1
    print(
        f"http://127.0.0.1:{port}/ shows the fleet, as {name} sees it, until Ctrl-C; if the browser finds"
        " nothing there, sshd opens no tunnels: docs/dashboard.md",
        flush=True,
    )
    tunnel = ["-t", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:127.0.0.1:{PORT}"]
    remote = f"sudo mail-worker dashboard --port {PORT}"
    return subprocess.run(
        [command[0], *tunnel, *command[1:], remote], stdout=subprocess.DEVNULL, check=False
    ).returncode


def logs(hosts: list[tuple[str, list[list[str]]]], words: list[str]) -> int:
    """Shows the hosts' logs side by side, each line with its host."""
    width = max(len(name) for name, _ in hosts)
    codes: list[int] = []
    threads = [threading.Thread(target=_show, args=(name.ljust(width), ways, words, codes)) for name, ways in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(codes)


def _show(name: str, ways: list[list[str]], words: list[str], codes: list[int]) -> None:
    command = reach(name.strip(), ways)
    if command is None:
        codes.append(1)
        return
    remote = shlex.join(["sudo", "mail-worker", "logs", *words])
    with subprocess.Popen([*command, remote], stdout=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stdout or ():
            print(f"{name}  {line}", end="", flush=True)
    codes.append(process.returncode)


def _members(found: dict[str, Any], group: str) -> list[str]:
    members = list(found.get(group, {}).get("hosts", []))
    for child in found.get(group, {}).get("children", []):
        members += _members(found, child)
    return list(dict.fromkeys(members))


if __name__ == "__main__":
    sys.exit(main())
