"""The collection holds what another project may use, and nothing else of a checkout."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
ANSIBLE_GALAXY = Path(sys.executable).parent / "ansible-galaxy"
ROLES = {"access", "firewall", "guard", "hardening"}
#: What a checkout holds besides what is committed: secrets by some of their names, and what tools leave behind.
PRIVATE = (
    ".env",
    ".testbed/molecule/hosts.yml",
    ".vault-password",
    ".venv/bin/python",
    "build/lib/a.py",
    "ca.pem",
    "dist/mail_worker-0.1.0-py3-none-any.whl",
    "docs.zip",
    "hosts.yml",
    "id_ed25519",
    "inventory/ca/broker.crt",
    "inventory/production/group_vars/mail_workers/vault.yml",
    "mail-worker.env",
    "molecule/a.yml",
    "password",
    "plugins.txt",
    "private.key",
    "readme.old",
    "roles/worker/files/worker.whl",
    "secrets.yml",
    "vault.yml",
    "Vault",
    "Passwords.txt",
    "plugins/modules/__pycache__/host_files.cpython-313.pyc",
)


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all files in a collection that was built from a checkout in use."""
    checkout, built = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (CHECKOUT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, checkout / name)
    for name in PRIVATE:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("secret", encoding="utf-8")
    subprocess.run(
        [ANSIBLE_GALAXY, "collection", "build", "--output-path", built],
        cwd=checkout,
        capture_output=True,
        check=True,
    )
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name for member in archive if member.isfile()}


def test_it_holds_the_roles_and_what_they_need(tarball: set[str]) -> None:
    assert {name.split("/")[0] for name in tarball} == {
        *("CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md"),
        *("docs", "meta", "plugins", "roles"),
    }
    assert {name.split("/")[1] for name in tarball if name.startswith("roles/")} == ROLES
    assert {name for name in tarball if name.startswith(("meta/", "plugins/"))} == {
        "meta/runtime.yml",
        "plugins/action/host_files.py",
        "plugins/modules/host_files.py",
    }
    assert {name.rpartition(".")[2] for name in tarball if name.startswith("docs/")} == {"md"}
    assert "docs/collection.md" in tarball


def test_nothing_private_gets_into_it(tarball: set[str]) -> None:
    assert tarball.isdisjoint(PRIVATE)


def test_it_has_the_projects_version() -> None:
    galaxy = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    assert galaxy["version"] == project["project"]["version"]


def test_it_asks_for_what_the_roles_use() -> None:
    galaxy = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text(encoding="utf-8"))
    texts = [path.read_text(encoding="utf-8") for role in ROLES for path in (CHECKOUT / "roles" / role).rglob("*.yml")]
    used = {found for text in texts for found in re.findall(r"^\s+(\w+\.\w+)\.\w+:", text, re.MULTILINE)}
    assert used - {"ansible.builtin"} == set(galaxy["dependencies"])


def test_the_roles_know_no_mail_worker() -> None:
    """Their defaults alone must do: nothing of the wiring in playbooks/group_vars is there."""
    for role in ROLES:
        for folder in ("defaults", "tasks", "templates", "vars", "handlers"):
            for path in (CHECKOUT / "roles" / role / folder).glob("*"):
                text = path.read_text(encoding="utf-8")
                foreign = re.findall(r"\b(?:worker|base|python|supervisor|redis|preflight)_[a-z]\w+", text)
                # Names of sets and counters in the firewall's table.
                assert set(foreign) <= {"worker_refused"}, path
                assert "mailworker" not in text, path


def test_the_documented_playbook_is_the_one_that_is_run() -> None:
    page = (CHECKOUT / "docs/collection.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(- name: .*?)```", page, re.DOTALL)
    run = (CHECKOUT / "molecule/collection/project/site.yml").read_text(encoding="utf-8")
    assert run == f"---\n{example}"
