"""Releases to deploy: the checkout's worker as another version, sound or broken."""

import contextlib
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from testbed.paths import CHECKOUT

#: What is wrong with each: a file of the worker, a line in it, and what follows that line.
BROKEN = {
    "crashes at start": (
        "sending/process.py",
        "def run_worker(settings: Settings) -> None:\n",
        '    raise RuntimeError("this version crashes")\n',
    ),
    "sends nothing": (
        "sending/delivery.py",
        "        while True:\n",
        "            await asyncio.sleep(3600)\n",
    ),
    "eats memory": (
        "sending/process.py",
        "    stopping = asyncio.Event()\n",
        "    globals()['held'] = b'x' * (700 << 20)\n",
    ),
}


def make_version(directory: Path, version: str, fault: str = "") -> Path:
    """Copies what a wheel is made of; returns the path for `worker_source_directory`."""
    source = directory / f"{version}-{fault.replace(' ', '-')}"
    for name in ("pyproject.toml", "LICENSE", "README.md", "roles/worker/files/requirements.txt"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, target)
    shutil.copytree(CHECKOUT / "worker", source / "worker", ignore=shutil.ignore_patterns("__pycache__"))
    project = source / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', text, count=1), encoding="utf-8")
    if fault:
        name, line, broken = BROKEN[fault]
        path = source / "worker" / name
        text = path.read_text(encoding="utf-8")
        assert line in text
        path.write_text(text.replace(line, line + broken, 1), encoding="utf-8")
    return source


@contextlib.contextmanager
def package_index(directory: Path, source: Path) -> Iterator[str]:
    """A package index on this machine that has one version of the worker; yields its address. The server's lists of
    files are what pip reads (https://packaging.python.org/en/latest/specifications/simple-repository-api/)."""
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir")
    subprocess.run([*build, directory / "mail-worker", source], check=True, stdout=subprocess.DEVNULL)
    # With their hashes, as any real index has them: else pip takes a wheel that an earlier run has left for this one.
    [wheel] = (directory / "mail-worker").glob("*.whl")
    link = f"{wheel.name}#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    (directory / "mail-worker" / "index.html").write_text(f'<a href="{link}">{wheel.name}</a>', encoding="utf-8")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
