"""The broken releases that the deploy tests roll out can still be made from today's worker."""

from pathlib import Path

import pytest

from tests.fleet.versions import BROKEN, make_version


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_finds_its_line(fault: str, tmp_path: Path) -> None:
    source = make_version(tmp_path, "0.3.0", fault)
    name, line, broken = BROKEN[fault]
    assert line + broken in (source / "worker" / name).read_text(encoding="utf-8")
