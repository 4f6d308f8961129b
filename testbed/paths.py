"""Where the test bed keeps its things."""

import hashlib
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
#: One directory for each instance; not in git.
INSTANCES = CHECKOUT / ".testbed"
#: Images and downloads, shared by all checkouts.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mail-worker-testbed"
#: What must not outlive a boot.
RUN = Path("/run/mail-worker-testbed")
#: Tells this checkout's containers from those of another one.
CHECKOUT_ID = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]
