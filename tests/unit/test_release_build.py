"""`mail-worker-release` builds real venvs here, from wheels as small as can be."""

import io
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from mail_worker_release.build import build
from mail_worker_release.candidate import Wheel
from mail_worker_release.errors import ReleaseError
from mail_worker_release.host import Host

_MAIN = "import sys\n{imports}\n\ndef main():\n    print({version!r}, 'this' in sys.modules)\n"
_BYTECODE = "import worker.cli\n"


def wheel(version: str, imports: str = "") -> Wheel:
    """A worker that tells its version."""
    packed = io.BytesIO()
    information = f"mail_worker-{version}.dist-info"
    files = {
        "worker/__init__.py": "",
        "worker/cli.py": _MAIN.format(imports=imports, version=version),
        "worker/bytecode.py": _BYTECODE,
        f"worker/only_in_{version}.py": "",
        "worker/requirements.txt": "",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: mail-worker\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/entry_points.txt": "[console_scripts]\nmail-worker = worker.cli:main\n",
    }
    record = f"{information}/RECORD"
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(record, "".join(f"{name},,\n" for name in (*files, record)))
    return Wheel(f"mail_worker-{version}-py3-none-any.whl", packed.getvalue())


class Releases:
    def __init__(self, directory: Path) -> None:
        self.host = Host(directory / "host")
        self.host.releases.mkdir(parents=True)

    def build(self, version: str, imports: str = "") -> list[str]:
        """Returns what was said."""
        said: list[str] = []
        assert build(self.host, version, wheel(version, imports), (), said.append)
        return said

    def run(self, version: str) -> str:
        done = subprocess.run(
            [self.host.releases / version / "mail-worker"], capture_output=True, text=True, check=True
        )
        return done.stdout

    def names(self, version: str, pattern: str) -> set[str]:
        return {path.name.partition(".")[0] for path in (self.host.releases / version).rglob(pattern)}


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    # As on a host: the system's Python, not the one that runs the tests.
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return Releases(tmp_path)


def test_a_second_release_takes_the_first_ones_dependencies_and_leaves_it_alone(releases: Releases) -> None:
    assert releases.build("1") == []
    assert releases.build("2") == ["with the dependencies of 1"]
    assert (releases.run("1"), releases.run("2")) == ("1 False\n", "2 False\n")
    assert releases.names("2", "only_in_*.py") == {"only_in_2"}
    assert releases.names("2", "only_in_*.pyc") == {"only_in_2"}
    assert releases.names("2", "mail_worker-*.dist-info") == {"mail_worker-2"}
    assert not build(releases.host, "2", wheel("2"), (), print)


def test_what_a_release_imports_for_the_first_time_has_bytecode_too(releases: Releases) -> None:
    releases.build("1")
    releases.build("2", "from json import (\n    scanner,\n)")
    assert "scanner" not in releases.names("1", "*.pyc")
    assert "scanner" in releases.names("2", "*.pyc")


def test_a_release_that_lacks_something_is_no_donor(releases: Releases) -> None:
    releases.build("1")
    shutil.rmtree(releases.host.releases / "1/bytecode")
    assert releases.build("2") == []
    assert releases.build("3") == ["with the dependencies of 2"]


def test_a_release_of_another_python_is_built_anew_and_is_no_donor(releases: Releases) -> None:
    releases.build("1")
    library = next((releases.host.releases / "1/venv/lib").iterdir())
    # As after an upgrade of the system, with the older one's packages in place.
    library.rename(library.with_name("python3.2"))
    assert releases.build("2") == []
    assert releases.build("1") == ["with the dependencies of 2"]
    assert releases.run("1") == "1 False\n"


def test_what_is_no_wheel_of_the_worker_is_named(releases: Releases) -> None:
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme", "")
    for content in (b"not found", other.getvalue()):
        with pytest.raises(ReleaseError, match=r"^x\.whl isn't a wheel of the mail worker$"):
            build(releases.host, "1", Wheel("x.whl", content), (), print)
    assert not releases.host.complete("1")
