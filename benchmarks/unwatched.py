"""The recorder without the thread that watches: what watching costs, is measured against it.

.venv/bin/python -m benchmarks.unwatched record
"""

import sys

from worker import cli
from worker.watching.watcher import Watcher


def _do_nothing(_: Watcher) -> None:
    pass


if __name__ == "__main__":
    for method in ("start", "stop"):
        setattr(Watcher, method, _do_nothing)
    sys.exit(cli.main())
