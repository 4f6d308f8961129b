"""`python -m worker` is `mail-worker`."""

import sys

from worker.cli import main

sys.exit(main())
