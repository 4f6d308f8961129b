"""What the first play says of an inventory before anybody connects."""

import os
import subprocess
from pathlib import Path

from tests.templates.conftest import ANSIBLE_PLAYBOOK, HERE

CHECKOUT = HERE.parent.parent
ENCRYPTED = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"


def look(inventory: Path, *arguments: str, **environment: str) -> str:
    """What a playbook says, in one line. Nobody answers at the host's address, nor is asked."""
    (inventory / "hosts.yml").write_text("mail_workers: {hosts: {}}\n", encoding="utf-8")
    done = subprocess.run(
        [ANSIBLE_PLAYBOOK, "-i", inventory, *arguments, "playbooks/status.yml"],
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())


def vault(inventory: Path, text: str) -> Path:
    path = inventory / "group_vars" / "mail_workers" / "vault.yml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def commit(inventory: Path) -> None:
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", inventory, *command], check=True)


def test_another_ansible_cfg_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.cfg").write_text("[defaults]\n", encoding="utf-8")
    said = look(tmp_path, ANSIBLE_CONFIG=str(tmp_path / "other.cfg"))
    assert f"This checkout's ansible.cfg isn't in force ({tmp_path}/other.cfg is): start the playbook in the" in said


def test_a_vault_that_anybody_can_read(tmp_path: Path) -> None:
    path = vault(tmp_path, "---\nworker_smtp_password: hunter2\n")
    said = look(tmp_path)
    assert f"{path} holds secrets and isn" in said
    assert f"run .venv/bin/ansible-vault encrypt {path}, and add --ask-vault-pass" in said
    assert "It is in git" not in said
    assert "hunter2" not in said
    commit(tmp_path)
    assert "It is in git, too: whoever has the repository has the secrets, so change them all." in look(tmp_path)


def test_a_vault_in_git(tmp_path: Path) -> None:
    path = vault(tmp_path, ENCRYPTED)
    commit(tmp_path)
    assert f"{path} is in git: whoever gets the repository" in look(tmp_path)
    assert "The inventory has no hosts in the group mail_workers" in look(tmp_path, "-e", "reach_vault_in_git=true")


def test_a_vault_as_it_should_be(tmp_path: Path) -> None:
    vault(tmp_path, "---\n# Each by itself.\nworker_smtp_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n")
    assert "The inventory has no hosts in the group mail_workers" in look(tmp_path)


def test_what_lies_elsewhere_beside_an_inventory_is_not_looked_at(tmp_path: Path) -> None:
    """As in somebody's home, where another project's vaults are."""
    vault(tmp_path / "other", "---\nworker_smtp_password: hunter2\n")
    assert "The inventory has no hosts in the group mail_workers" in look(tmp_path)
