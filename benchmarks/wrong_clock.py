"""`mail-worker` on a host whose clock is wrong: `python -m benchmarks.wrong_clock HOURS_AHEAD run`."""

import sys
import time

from worker import cli

ahead_seconds = float(sys.argv.pop(1)) * 3600
right_time = time.time
vars(time)["time"] = lambda: right_time() + ahead_seconds
sys.exit(cli.main())
