"""Where the test bed keeps its things."""

import hashlib
import os
from pathlib import Path


def _short_hash(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:6]


CHECKOUT = Path(__file__).resolve().parent.parent
#: One directory for each instance; not in git.
INSTANCES = CHECKOUT / ".testbed"
#: Images and downloads, shared by all checkouts.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mail-worker-testbed"
#: What must not outlive a boot. Each cache has one of its own: two users' test beds don't share containers.
RUN = Path("/run") / f"mail-worker-testbed-{_short_hash(CACHE)}"
#: Tells this checkout's containers from those of another one.
CHECKOUT_ID = _short_hash(CHECKOUT)
