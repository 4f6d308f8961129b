"""Fetches the wheels of hash-locked lists for another machine's Python, and packs them into one file.

pip reads a list's markers for the Python that it runs on, so they are decided here, for the other one. A list that was
fetched before isn't fetched again. Prints the file's path.
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

#: glibc's versions, newest first, up to that of Debian 12, the oldest system (https://peps.python.org/pep-0600/).
_MANYLINUX = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17")
_OLD_NAMES = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
_LIST_IN_WHEEL = "worker/requirements.txt"


def read_list(path: Path) -> str:
    """A list, or that of a wheel that has one in it."""
    if path.suffix != ".whl":
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path) as wheel:
        return wheel.read(_LIST_IN_WHEEL).decode()


def without_markers(text: str, python: str, machine: str) -> str:
    """The lines that hold for a Python (3.13.5) on a Linux machine (x86_64), with their hashes and nothing else."""
    environment = {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "implementation_version": python,
    }
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        words, _, hashes = line.partition(" --hash=")
        if not words.strip() or words.lstrip().startswith("#"):
            continue
        requirement = Requirement(words.strip())
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            lines.append(f"{requirement} --hash={hashes}" if hashes else str(requirement))
    return "\n".join(lines) + "\n"


def fetch(text: str, python: str, machine: str, directory: Path) -> None:
    """Downloads the wheels into a directory.

    Raises:
        subprocess.CalledProcessError: pip can't; it has said why.
    """
    names = [f"manylinux_{version}" for version in _MANYLINUX] + list(_OLD_NAMES.get(machine, ()))
    requirements = directory / "requirements.txt"
    requirements.write_text(text, encoding="utf-8")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", "--implementation=cp"),
            f"--python-version={'.'.join(python.split('.')[:2])}",
            *(f"--platform={name}_{machine}" for name in names),
            *(f"--dest={directory}", f"--requirement={requirements}"),
        ],
        check=True,
        stdout=sys.stderr,
    )
    requirements.unlink()


def pack(directory: Path, file: Path) -> None:
    """The same wheels give the same file to the byte."""
    new = file.with_suffix(".new")
    with zipfile.ZipFile(new, "w") as archive:
        for wheel in sorted(directory.iterdir()):
            archive.writestr(zipfile.ZipInfo(wheel.name), wheel.read_bytes())
    new.replace(file)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("lists", type=Path, nargs="+")
    parser.add_argument("--python", required=True)
    parser.add_argument("--machine", required=True)
    options = parser.parse_args()
    text = "".join(
        sorted({without_markers(read_list(path), options.python, options.machine) for path in options.lists})
    )
    minor = ".".join(options.python.split(".")[:2])
    name = hashlib.sha256(f"{minor} {options.machine} {text}".encode()).hexdigest()[:16]
    file = options.cache / f"{name}.zip"
    options.cache.mkdir(parents=True, exist_ok=True)
    with (options.cache / "lock").open("w") as lock:  # Ansible asks for several hosts at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            directory = Path(tempfile.mkdtemp(dir=options.cache))
            try:
                fetch(text, options.python, options.machine, directory)
                pack(directory, file)
            finally:
                shutil.rmtree(directory)
    print(file)


if __name__ == "__main__":
    main()
