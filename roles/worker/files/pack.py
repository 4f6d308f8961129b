"""Packs `mail_worker_release`, with the library that it needs, into one file that a host runs; the same source gives
the same file to the byte.

Usage: pack.py DESTINATION
"""

import io
import sys
import zipfile
from pathlib import Path

import installer

SHEBANG = b"#!/opt/supervisor/venv/bin/python\n"
#: An upgrade of the system may bring another Python, which finds nothing in supervisor's venv.
MAIN = """\
import sys

try:
    import supervisor.xmlrpc
except ModuleNotFoundError:
    sys.exit(
        "An upgrade of the system has brought Python {}.{}, and neither supervisor nor any release was built with it:"
        " run playbooks/site.yml (docs/upgrade-the-system.md).".format(*sys.version_info)
    )

from mail_worker_release.__main__ import main

sys.exit(main())
"""


def pack(*packages: Path) -> bytes:
    """A zip file that Python runs (https://docs.python.org/3/library/zipapp.html)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {
            str(path.relative_to(package.parent)): path.read_text(encoding="utf-8")
            for package in packages
            for path in package.rglob("*.py")
        }
        for name, text in sorted((files | {"__main__.py": MAIN}).items()):
            archive.writestr(zipfile.ZipInfo(name), text)
    return SHEBANG + packed.getvalue()


if __name__ == "__main__":
    packed = pack(Path(__file__).parent / "mail_worker_release", Path(installer.__file__).parent)
    Path(sys.argv[1]).write_bytes(packed)
