"""supervisord by the Python that an upgrade of the system has brought.

The role supervisor installs it for the new Python into the same venv, beside what the running one has loaded its
modules from, and leaves the restart to the deploy: before the release is there for the new Python too, the workers
would end with it and not come back.
"""

import shutil
import subprocess

from mail_worker_release import drain
from mail_worker_release.errors import ReleaseError
from mail_worker_release.host import Host, pythons
from mail_worker_release.supervisor import Supervisor

_RESTART = ("systemctl", "restart", "supervisor.service")


def renew(host: Host, supervisor: Supervisor, restart: tuple[str, ...] = _RESTART) -> bool:
    """Restarts supervisord if its venv has another Python's packages still; returns whether it had.

    Raises:
        ReleaseError: it doesn't come back, or a program of it doesn't.
    """
    left = [python for python in pythons(host.supervisor_venv) if python != host.python]
    if not left:
        return False
    done = subprocess.run(restart, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ReleaseError(f"{' '.join(restart)} failed ({words}): look at systemctl status supervisor.")
    supervisor.wait_until_it_answers()
    drain.wait_until_up(host, supervisor)
    # Last: as long as one is there, the next deploy does it again.
    for python in left:
        shutil.rmtree(host.supervisor_venv / "lib" / f"python{python}")
    return True
