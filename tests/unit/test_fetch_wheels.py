"""Which lines of a hash-locked list hold for another machine's Python."""

from pathlib import Path

import pytest

from fetch_wheels import read_list, without_markers
from testbed.paths import CHECKOUT

LIST = """\
aiosmtplib==5.1.3 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
# a comment
async-timeout==5.0.1 ; python_full_version < '3.11.3' \\
    --hash=sha256:cc
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:dd
uvloop==0.23.0 ; platform_machine == 'aarch64' \\
    --hash=sha256:ee
"""


@pytest.mark.parametrize(
    ("python", "machine", "names"),
    [
        ("3.11.2", "x86_64", ["aiosmtplib", "async-timeout"]),
        ("3.13.5", "x86_64", ["aiosmtplib"]),
        ("3.13.5", "aarch64", ["aiosmtplib", "uvloop"]),
    ],
)
def test_markers_are_decided_for_the_host(python: str, machine: str, names: list[str]) -> None:
    lines = without_markers(LIST, python, machine).splitlines()
    assert [line.partition("==")[0] for line in lines] == names
    assert lines[0].split() == ["aiosmtplib==5.1.3", "--hash=sha256:aa", "--hash=sha256:bb"]


def test_the_committed_lists_can_be_read() -> None:
    for role in ("worker", "supervisor"):
        path = Path(CHECKOUT) / f"roles/{role}/files/requirements.txt"
        lines = without_markers(read_list(path), "3.12.3", "x86_64").splitlines()
        assert lines
        assert all(" --hash=sha256:" in line for line in lines)
