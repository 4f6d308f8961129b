"""Packs `mail_worker_release` into one file that a host runs; the same source gives the same file to the byte.

Usage: pack.py DESTINATION
"""

import io
import sys
import zipfile
from pathlib import Path

SHEBANG = b"#!/opt/supervisor/venv/bin/python\n"
MAIN = "import sys\n\nfrom mail_worker_release.__main__ import main\n\nsys.exit(main())\n"


def pack(source: Path) -> bytes:
    """A zip file that Python runs (https://docs.python.org/3/library/zipapp.html)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {f"{source.name}/{path.name}": path.read_text(encoding="utf-8") for path in source.glob("*.py")}
        for name, text in sorted((files | {"__main__.py": MAIN}).items()):
            archive.writestr(zipfile.ZipInfo(name), text)
    return SHEBANG + packed.getvalue()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(pack(Path(__file__).parent / "mail_worker_release"))
