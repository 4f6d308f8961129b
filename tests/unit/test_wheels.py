"""Nothing is compiled on a host, so each package of the hosts' lists needs a wheel for each system and processor. The
lists hold hashes alone; uv.lock knows the files by them. No registry is asked."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

CHECKOUT = Path(__file__).resolve().parents[2]
LISTS = sorted(CHECKOUT.glob("roles/*/files/requirements.txt"))
#: Each system's Python, and the minor version of its glibc 2.
SYSTEMS = {
    "debian12": ("3.11.2", 36),
    "ubuntu24.04": ("3.12.3", 39),
    "debian13": ("3.13.5", 41),
    "ubuntu26.04": ("3.14.0", 42),
}
#: The first minor version of glibc 2 that manylinux knows there (PEP 600), and what that was called before.
MACHINES = {
    "x86_64": (5, {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}),
    "aarch64": (17, {17: "manylinux2014"}),
}


def platforms(machine: str, glibc: int) -> Iterator[str]:
    first, old_names = MACHINES[machine]
    for minor in range(glibc, first - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in old_names:
            yield f"{old_names[minor]}_{machine}"
    yield f"linux_{machine}"


def tags(system: str, machine: str) -> frozenset[Tag]:
    python, glibc = SYSTEMS[system]
    major, minor = (int(part) for part in python.split(".")[:2])
    names = list(platforms(machine, glibc))
    interpreter = f"cp{major}{minor}"
    return frozenset(
        (
            *cpython_tags((major, minor), [interpreter], names),
            *compatible_tags((major, minor), interpreter, names),
        )
    )


def environment(system: str, machine: str) -> dict[str, str]:
    python, _ = SYSTEMS[system]
    return {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_name": "cpython",
        "implementation_version": python,
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }


def locked(path: Path) -> Iterator[tuple[Requirement, set[str]]]:
    """Each entry of a list, with its files' hashes."""
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line.partition("--hash")[0]), set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line))


def wheels() -> dict[str, dict[str, str]]:
    """Package → hash → name of the wheel, by uv.lock."""
    lock = tomllib.loads((CHECKOUT / "uv.lock").read_text(encoding="utf-8"))
    return {
        canonicalize_name(package["name"]): {
            wheel["hash"]: wheel["url"].rpartition("/")[2] for wheel in package.get("wheels", ())
        }
        for package in lock["package"]
    }


def missing(path: Path, system: str, machine: str, known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The packages of a list that no wheel fits."""
    fitting = tags(system, machine)
    found = []
    for requirement, hashes in locked(path):
        if requirement.marker is not None and not requirement.marker.evaluate(environment(system, machine)):
            continue
        files = known.get(canonicalize_name(requirement.name), {})
        names = [name for digest, name in files.items() if digest in hashes]
        if not any(fitting & parse_wheel_filename(name)[3] for name in names):
            found.append(str(requirement))
    return found


@pytest.fixture(scope="module", name="known")
def known_wheels() -> dict[str, dict[str, str]]:
    return wheels()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("path", LISTS, ids=lambda path: str(path.parent.parent.name))
def test_each_package_has_a_wheel(path: Path, system: str, machine: str, known: dict[str, dict[str, str]]) -> None:
    without = missing(path, system, machine, known)
    assert without == [], f"no wheel for {system} on {machine}: {', '.join(without)}"


def test_a_package_without_one_is_named(known: dict[str, dict[str, str]]) -> None:
    [path] = [path for path in LISTS if path.parent.parent.name == "worker"]
    fewer = {
        name: {digest: file for digest, file in files.items() if not (name == "uvloop" and "aarch64" in file)}
        for name, files in known.items()
    }
    assert len(known["uvloop"]) > len(fewer["uvloop"])
    assert missing(path, "debian12", "aarch64", fewer) == ["uvloop==0.23.0"]
    assert missing(path, "debian12", "x86_64", fewer) == []


def test_the_lists_are_those_of_the_lock(known: dict[str, dict[str, str]]) -> None:
    """A list of another version would find no wheels at all, or those of nobody."""
    assert [path.parent.parent.name for path in LISTS] == ["supervisor", "worker"]
    for path in LISTS:
        for requirement, hashes in locked(path):
            assert hashes & known[canonicalize_name(requirement.name)].keys(), str(requirement)
