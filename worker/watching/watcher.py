"""Watches the fleet, from a thread of the recorder's: each host tells of itself once a minute, and one of them counts,
and tells people what is wrong."""

import contextlib
import json
import logging
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import redis

from worker.base import keys
from worker.base.redis_client import CountingBlockingRedis, explain, script
from worker.base.settings import Settings
from worker.base.values import jwt_claims
from worker.queue.processes import Process, running_version, this_month
from worker.watching.alerts import Alert, Known, event, plan, untold
from worker.watching.host import Broker, Host, failed_units, look_at_host
from worker.watching.points import KEPT_POINTS, MINUTE_SECONDS, Point
from worker.watching.programs import REMEMBERED_SECONDS, Program, Restarts, look_at_programs
from worker.watching.seen import Fleet, Seen
from worker.watching.status import read_status
from worker.watching.telling import ping, tell
from worker.watching.troubles import FLAPPING_SECONDS, Trouble, broker_troubles, fleet_troubles, host_troubles

if TYPE_CHECKING:
    from worker.watching.metrics import Metrics

#: A host that watches and falls silent is followed by another one after so long.
WATCH_SECONDS = 150
WANTED_POINTS = 61
EVENTS_AT_ONCE = 20
#: Alerts that nobody takes are tried again after a minute, then less and less often.
LONGEST_TELL_WAIT_SECONDS = 900.0
#: What reading a line raises that is nothing of ours: not JSON, another type, a field that isn't there, too deep.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

logger = logging.getLogger(__name__)


class Watcher:
    """One host's; it takes the place of a heartbeat."""

    def __init__(self, client: CountingBlockingRedis, settings: Settings, name: str) -> None:
        """
        Args:
            name: the recorder's own, as `HOST/PROGRAM`.
        """
        self._client = client
        self._settings = settings
        self._name = name
        self._watch = client.register_script(script("clock", "watch"))
        self._watched = client.register_script(script("watched"))
        self._restarts = Restarts()
        self._reported = self._reported_inside = 0
        self._tell_again_at, self._tell_wait_seconds = 0.0, MINUTE_SECONDS / 2
        self._metrics = _metrics(settings)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watcher")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and takes the process off the list. Another host watches after `WATCH_SECONDS`."""
        self._stopping.set()
        self._thread.join(timeout=5)
        if self._metrics is not None:
            self._metrics.stop()
        with contextlib.suppress(redis.RedisError):  # It falls silent anyway, and readers leave it out.
            self._client.hdel(keys.PROCESSES, self._name)

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except redis.RedisError as error:
                logger.error("%s", explain(error))
            except Exception:
                # Results must be recorded, whatever becomes of this.
                logger.exception("unexpected error while watching")
            if self._stopping.wait(MINUTE_SECONDS - time.time() % MINUTE_SECONDS):
                return

    def _look(self) -> None:
        now = time.time()
        host = self._settings.host_name
        programs = self._programs()
        self._restarts.see(programs, now)
        restarts = sum(self._restarts.within(REMEMBERED_SECONDS, now).values())
        seen = look_at_host(host, running_version(), now, programs, restarts)
        troubles = list(
            host_troubles(
                seen,
                programs,
                self._restarts.within(FLAPPING_SECONDS, now),
                failed_units(),
                dict(self._ends()),
                self._settings.alerts,
            )
        )
        fleet, redis_answers = None, True
        try:
            fleet = self._tell_and_look(seen, troubles, now)
        except redis.RedisError:
            redis_answers = False
            raise
        finally:
            if self._metrics is not None:
                self._metrics.show(Seen(seen, len(troubles), redis_answers, fleet))

    def _tell_and_look(self, seen: Host, troubles: list[Trouble], now: float) -> Fleet | None:
        commands, inside = self._client.commands, self._client.commands_inside
        found = self._watch(
            keys=[
                keys.PROCESSES,
                keys.COMMANDS,
                keys.HOSTS,
                keys.HOST_TROUBLES,
                keys.WATCHER,
                keys.POINTS,
                keys.EVENTS,
                keys.TROUBLES,
                keys.DURATIONS,
                keys.BROKERS,
            ],
            args=[
                self._name,
                Process.of_this(self._name, concurrency=0).as_json(),
                this_month(),
                commands - self._reported,
                inside - self._reported_inside,
                seen.name,
                seen.as_json(),
                json.dumps([trouble.as_list() for trouble in troubles]),
                WATCH_SECONDS * 1000,
                WANTED_POINTS,
                EVENTS_AT_ONCE,
            ],
        )
        self._reported, self._reported_inside = commands, inside
        return None if found is None else self._look_at_fleet(found, now)

    def _look_at_fleet(self, found: list[Any], now: float) -> Fleet:
        lines, events, hosts, known_lines, durations, brokers = found
        settings = self._settings
        status = read_status(self._client, settings.account_name, settings.mail_rate, settings.bullmq)
        if abs(now - status.seen_at) >= MINUTE_SECONDS:
            # This host's clock is wrong: it would miss all hosts, and take back points that the others have written.
            now = status.seen_at
        points = [point for point in map(Point.read, lines) if point is not None]
        known = dict(_known(known_lines))
        heard_at, troubles = {}, []
        for name, at, listed in _heard(hosts):
            heard_at[name] = at
            troubles += listed
        for broker in _brokers(brokers):
            # A broker that is a worker too tells of itself, and more.
            if broker.name not in heard_at:
                troubles += broker_troubles(broker, settings.alerts, now)
        troubles += fleet_troubles(status, points, heard_at, settings.alerts, now)
        quiet = settings.alerts.quiet_hours is not None and settings.alerts.quiet_hours.hold_at(now)
        planned = plan(troubles, known, now, quiet=quiet)
        told = [] if quiet else [event(line) for line in reversed(events)]
        happened = [one for one in told if one is not None and (one.kind != "done" or settings.alerts.campaign_done)]
        alerts = [*planned.alerts, *happened]
        if alerts and not self._tell(alerts):
            planned, told, alerts = untold(planned, known), [], []
        point = Point.of(status, now)
        self._watched(
            keys=[keys.POINTS, keys.TROUBLES, keys.EVENTS, keys.TOLD],
            args=[
                point.as_json(),
                KEPT_POINTS,
                json.dumps({key: one.as_json() for key, one in planned.known.items()}),
                json.dumps(planned.over),
                len(told),
                json.dumps([json.dumps([int(now), alert.state, alert.shown]) for alert in alerts]),
                point.at,
            ],
        )
        if problem := ping(settings.alerts):
            logger.error("%s", problem)
        return Fleet(status, {name.decode(errors="replace"): int(n) for name, n in _pairs(durations) if n.isdigit()})

    def _tell(self, alerts: list[Alert]) -> bool:
        if time.monotonic() < self._tell_again_at:
            return False
        for alert in alerts:
            logger.log(logging.WARNING if alert.urgent and alert.state == "began" else logging.INFO, "%s", alert.shown)
        problems = tell(alerts, self._settings.alerts, self._settings.host_name)
        for problem in problems:
            logger.error("%s", problem)
        # Where there are two ways, and one works, somebody knows.
        if len(problems) < max(len(self._settings.alerts.ways), 1):
            self._tell_wait_seconds = MINUTE_SECONDS / 2
            return True
        # Whoever answers too late may have read them, and is to read them a few times at the most.
        self._tell_wait_seconds = min(self._tell_wait_seconds * 2, LONGEST_TELL_WAIT_SECONDS)
        self._tell_again_at = time.monotonic() + self._tell_wait_seconds - MINUTE_SECONDS / 2
        return False

    def _programs(self) -> list[Program]:
        try:
            return look_at_programs()
        except (OSError, xmlrpc.client.Error) as error:
            logger.warning(
                "supervisord doesn't say how its programs are (%s): look at systemctl status supervisor.", error
            )
            return []

    def _ends(self) -> Iterator[tuple[str, float]]:
        at = jwt_claims(self._settings.supabase_key).get("exp")
        if isinstance(at, int | float):
            yield "SUPABASE_SECRET_KEY", at
        if ends_at := _certificate_ends_at(self._client):
            yield "Redis's certificate", ends_at


def _metrics(settings: Settings) -> "Metrics | None":
    if not (settings.metrics_port or settings.metrics_file):
        return None
    # Whoever wants none doesn't pay their 2 MB.
    from worker.watching.metrics import Metrics

    return Metrics(settings.metrics_port, settings.metrics_file)


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _known(lines: list[bytes]) -> Iterator[tuple[str, Known]]:
    for key, line in _pairs(lines):
        try:
            yield key.decode(errors="replace"), Known.read(line)
        except UNREADABLE:
            logger.warning("%s holds what isn't a trouble; it's left alone.", keys.TROUBLES)


def _heard(lines: list[bytes]) -> Iterator[tuple[str, float, list[Trouble]]]:
    """Each host, when it told of itself (in seconds since 1970), and what is wrong there."""
    for host, line in _pairs(lines):
        try:
            at_ms, listed = json.loads(line)
            troubles = [Trouble(str(key), str(sentence), bool(urgent)) for key, sentence, urgent in json.loads(listed)]
            yield host.decode(errors="replace"), float(at_ms) / 1000, troubles
        except UNREADABLE:
            logger.warning("%s holds what no host tells; it's left alone.", keys.HOST_TROUBLES)


def _brokers(lines: list[bytes]) -> Iterator[Broker]:
    for name, line in _pairs(lines):
        try:
            yield Broker.read(name.decode(errors="replace"), line)
        except UNREADABLE:
            logger.warning("%s holds what no broker tells; it's left alone.", keys.BROKERS)


def _certificate_ends_at(client: CountingBlockingRedis) -> float | None:
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        opened = connection._sock
        certificate = opened.getpeercert() if isinstance(opened, ssl.SSLSocket) else None
    finally:
        pool.release(connection)
    if not certificate or "notAfter" not in certificate:
        return None
    return ssl.cert_time_to_seconds(str(certificate["notAfter"]))
