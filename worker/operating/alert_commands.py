"""`mail-worker alert-test` and `mail-worker forget`."""

import sys
import time
from argparse import Namespace

from worker.base import keys
from worker.base.redis_client import connect
from worker.base.settings import Settings
from worker.errors import OperatorMistake
from worker.watching.alerts import Alert
from worker.watching.telling import ping, tell
from worker.watching.troubles import KINDS


def alert_test(settings: Settings, options: Namespace) -> int:
    """`mail-worker alert-test`: tells one of each kind, by each way."""
    alerts = settings.alerts
    if not alerts.ways:
        raise OperatorMistake(
            "Nobody is told: set worker_alert_webhook_url, or worker_alert_mail_to with worker_alert_smtp_url"
            " (docs/alerts.md)."
        )
    now = time.time()
    tests = [Alert(kind, kind, f"Test: {what}.", False, "happened", now) for kind, what in KINDS.items()]
    problems = tell(tests, alerts, settings.host_name)
    if not problems:
        print(f"{len(tests)} test alerts went out together by {' and by '.join(alerts.ways)}")
    if problem := ping(alerts):
        problems.append(problem)
    elif alerts.ping_url:
        print("the dead man's switch was reached")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def forget(settings: Settings, options: Namespace) -> int:
    """`mail-worker forget HOST`: a host that is gone for good isn't missed any more."""
    client = connect(settings.redis_url)
    if not sum(client.hdel(key, options.host) for key in (keys.HOSTS, keys.HOST_TROUBLES, keys.BROKERS)):
        raise OperatorMistake(f"No host {options.host} is known: see mail-worker status.")
    print(f"{options.host} is forgotten; if it still runs, it comes back within minutes")
    return 0
