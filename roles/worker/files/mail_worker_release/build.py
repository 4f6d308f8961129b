"""Building a release beside the one that runs: a venv from a wheel and the hash-locked list that is in it.

Nothing is compiled, and pip isn't asked for what another release of the host has already: with the same list and the
same Python, the new venv's files are links to that one's.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

from mail_worker_release.candidate import Wheel
from mail_worker_release.errors import ReleaseError
from mail_worker_release.host import Host, remove
from mail_worker_release.switch import Say

_LIST = "worker/requirements.txt"
#: An import of somebody else's, over as many lines as it has.
_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(?!worker\b)\S+[ \t]+)?import[ \t]+(?:\([^)]*\)|.+)", re.MULTILINE)
#: Without bytecode: the programs run from that which `worker.bytecode` makes.
_OPTIONS = (
    *("--quiet", "--no-cache-dir", "--no-compile", "--disable-pip-version-check", "--no-warn-script-location"),
    "--root-user-action=ignore",
)
_COMMAND = """\
#!/bin/sh
exec env PYTHONOPTIMIZE=2 PYTHONPYCACHEPREFIX={release}/bytecode {release}/venv/bin/mail-worker "$@"
"""


def build(host: Host, release: str, given: Wheel, source: tuple[str, ...], say: Say) -> bool:
    """Builds a release unless it's there already; returns whether anything had to be done.

    Args:
        source: pip's options that say where the dependencies come from.

    Raises:
        ReleaseError: it can't be built. What was made of it goes with the next try.
    """
    if host.runs(release):
        return False
    directory = host.releases / release
    remove(directory)
    directory.mkdir(mode=0o755)
    wheel = directory / given.name
    wheel.write_bytes(given.content)
    requirements = directory / "requirements.txt"
    try:
        with zipfile.ZipFile(wheel) as archive:
            requirements.write_bytes(archive.read(_LIST))
    except (zipfile.BadZipFile, KeyError):
        raise ReleaseError(f"{wheel.name} isn't a wheel of the mail worker") from None
    # The programs run without docstrings, and may not write where their code is.
    environment = {"PYTHONOPTIMIZE": "2", "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}
    donor = _donor(host, directory)
    if donor is None:
        _install_all(directory, wheel, requirements, source)
    else:
        say(f"with the dependencies of {donor.name}")
        _link(donor, directory)
        _install_worker(directory, wheel)
    making: tuple[str, ...] = ("worker.bytecode",)
    if donor is not None and _imports(directory) <= _imports(donor):
        making = ("compileall", "-q", str(_packages(directory) / "worker"))
    # -P: not from the directory that this was called in.
    _run(str(directory / "venv/bin/python"), "-P", "-m", *making, environment=environment)
    command = directory / "mail-worker"
    command.write_text(_COMMAND.format(release=directory), encoding="utf-8")
    command.chmod(0o755)
    (directory / "complete").write_text(f"{release}\n", encoding="utf-8")
    return True


def _install_all(directory: Path, wheel: Path, requirements: Path, source: tuple[str, ...]) -> None:
    _run("python3", "-m", "venv", "--without-pip", str(directory / "venv"))
    everything = directory / "everything.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    everything.write_text(f"--requirement {requirements}\n{wheel} --hash=sha256:{digest}\n", encoding="utf-8")
    # The pip that supervisor's venv has: one for each release would cost a small host ten seconds.
    pip = (sys.executable, "-m", "pip", "--python", str(directory / "venv/bin/python"), "install", *_OPTIONS)
    _run(*pip, "--require-hashes", "--only-binary=:all:", *source, f"--requirement={everything}")


def _install_worker(directory: Path, wheel: Path) -> None:
    venv, packages = directory / "venv", _packages(directory)
    places = {"purelib": str(packages), "scripts": str(venv / "bin")}
    with WheelFile.open(wheel) as source:
        install(source, SchemeDictionaryDestination(places, str(venv / "bin/python"), "posix"), {})


def _packages(directory: Path) -> Path:
    return next((directory / "venv/lib").glob("python*/site-packages"))


def _imports(directory: Path) -> set[bytes]:
    """What a release's worker imports of others, all over it: with no more than that, it needs no other bytecode."""
    return {
        found
        for path in (_packages(directory) / "worker").rglob("*.py")
        for found in _IMPORT.findall(path.read_bytes())
    }


def _donor(host: Host, directory: Path) -> Path | None:
    """A complete release with the same list, made with the Python that this host has now."""
    wanted = (directory / "requirements.txt").read_bytes()
    version = _version(Path("/usr/bin/python3"))
    for complete in sorted(host.releases.glob("*/complete"), key=lambda path: path.stat().st_mtime, reverse=True):
        donor = complete.parent
        if (
            host.runs(donor.name)
            and all((donor / part).exists() for part in ("requirements.txt", "bytecode", "venv/bin/mail-worker"))
            and (donor / "requirements.txt").read_bytes() == wanted
            and _version(donor / "venv/bin/python") == version
        ):
            return donor
    return None


def _version(python: Path) -> str:
    done = subprocess.run([python, "-VV"], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else f"no {python}"


def _link(donor: Path, directory: Path) -> None:
    """Links the donor's files but its worker's; who writes bytecode anew, Python, makes a file of its own."""
    venv = directory / "venv"
    shutil.copytree(donor / "venv", venv, symlinks=True, copy_function=os.link)
    # Python keeps bytecode below the whole path of its source.
    kept, wanted = (path / "bytecode" / str(path / "venv").lstrip("/") for path in (donor, directory))
    shutil.copytree(kept, wanted, copy_function=os.link)
    system = donor / "bytecode/usr"
    if system.is_dir():
        shutil.copytree(system, directory / "bytecode/usr", copy_function=os.link)
    packages = _packages(directory)
    # Its bytecode too: Python takes it for a source's of the same size and second.
    own = (
        packages / "worker",
        *packages.glob("mail_worker-*.dist-info"),
        wanted / packages.relative_to(venv) / "worker",
    )
    for each in own:
        shutil.rmtree(each, ignore_errors=True)
    (venv / "bin/mail-worker").unlink()


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    # Debian's list of certificates, which may have more than pip's own.
    trust = {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
    done = subprocess.run(
        command, env={**os.environ, **trust, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise ReleaseError(f"{Path(command[0]).name} {command[1]}: {(errors or lines)[-1]}")
