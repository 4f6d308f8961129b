"""Kept-open SMTP connections: who gets one, who waits for one, and when one has done enough."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import redis

from worker.base.tasks import cancel
from worker.errors import AccountRefused, NoConnectionYet, TransportUnavailable
from worker.sending.transports.base import NO_PLACE, Connections
from worker.sending.transports.smtp_session import SmtpSession

IDLE_SECONDS = 20.0
#: Where other processes may wait for it.
SHARED_IDLE_SECONDS = 2.0
#: A mail that waited so long for a connection goes back to the queue, where other processes see it.
LONGEST_WAIT_SECONDS = 10.0
#: While mails wait here, the fleet is asked for one more connection after this time.
ASK_SECONDS = 0.5
QUIT_SECONDS = 1.0
#: Further mails wait for these and for those that others give back: a server may take amiss that many come at once.
OPENED_AT_ONCE = 10

logger = logging.getLogger(__name__)


class Connection:
    """An open connection, and how much it has been used."""

    def __init__(self, session: SmtpSession) -> None:
        self.session = session
        self.mails = 0
        self.expiry: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """In the line of mails that wait for a connection."""

    waiting: "asyncio.Future[Connection]"
    #: It wants one that hasn't been used, to hear what is really up.
    fresh: bool


class _NoPlace(Exception):
    """No connection can be opened, but there are some to wait for: this process's or others'."""


class Pool:
    """It never holds more connections than there are mails being sent at once."""

    def __init__(
        self,
        log_in: Callable[[], Awaitable[SmtpSession]],
        connections: Connections | None,
        mails_per_connection: int,
    ) -> None:
        """
        Args:
            log_in: opens a connection and logs in; raises TransportUnavailable or AccountRefused.
            connections: the fleet's limit; None for a single test mail.
            mails_per_connection: no connection carries more; `ended_after` may learn that the server wants less.
        """
        self._log_in = log_in
        self._connections = connections
        self._mails_per_connection = mails_per_connection
        self._ended_after = 0
        self._idle: list[Connection] = []
        self._line: deque[_Place] = deque()
        self._place_left = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()
        self._asking: asyncio.Task[None] | None = None
        #: Connections that are logged in, and with those that are being opened.
        self._logged_in = 0
        self._open = 0
        self._works = False
        self._first = asyncio.Lock()
        #: Held while the fleet is asked or told about this process's connections.
        self._counting = asyncio.Lock()
        self._failures = 0
        self._last_failure: TransportUnavailable | AccountRefused | NoConnectionYet | None = None
        self._said = ""
        self._background: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Connections that are open or being opened."""
        return self._open

    async def take(self, *, fresh: bool = False) -> Connection:
        """A connection for one mail, which has to be given back or dropped. Whatever comes first serves the mail that
        has waited longest: one that is opened for it, or one that another mail gives back. So a connection that stalls
        while it's opened holds no mail up where there are others.

        Args:
            fresh: a new one, unless the fleet has all that it may have.

        Raises:
            TransportUnavailable, AccountRefused: none can be opened.
            NoConnectionYet: the account rests, or the mail has waited for long.
        """
        if not fresh and (idle := self._take_idle()):
            return idle
        place = _Place(asyncio.get_running_loop().create_future(), fresh)
        self._line.append(place)
        self._open_more()
        return await self._stand_in_line(place)

    def give_back(self, connection: Connection) -> None:
        """Whoever has waited longest gets it, if it's still good for a mail."""
        if connection.mails >= self._mails_per_connection or not connection.session.usable:
            self.drop(connection)
            return
        if place := self._next_in_line(connection):
            place.waiting.set_result(connection)
            return
        shared = self._connections is not None and self._connections.limited
        seconds = SHARED_IDLE_SECONDS if shared else IDLE_SECONDS
        connection.expiry = asyncio.get_running_loop().call_later(seconds, self._expire, connection)
        self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """Ends it. Its place is free as soon as the server has ended it as well: it may count connections itself."""
        self._logged_in -= 1
        if connection.session.listening:
            self._in_background(self._quit(connection))
        else:
            connection.session.close()
            self._closed()

    def ended_after(self, mails: int, *, by_limit: bool) -> None:
        """The server ended a connection that had carried so many mails. If it says that this is its limit, or does so
        twice running, no further connection carries more."""
        if (by_limit or mails == self._ended_after) and mails < self._mails_per_connection:
            logger.info("The SMTP server takes %d mails on a connection: each gets no more from now on.", mails)
            self._mails_per_connection = mails
        self._ended_after = mails

    async def close(self) -> None:
        """Says QUIT on every connection; a server that doesn't answer within a second isn't waited for."""
        await cancel(*self._opening, *filter(None, [self._asking]))
        for connection in list(self._idle):
            self._expire(connection)
        # Those that say goodbye, and then the counts that they tell.
        for _ in range(2):
            if self._background:
                await asyncio.wait(self._background, timeout=QUIT_SECONDS)

    async def _connect(self) -> Connection:
        # Until one connection has worked, the others wait for it: a wrong password is tried once, not fifty times.
        if not self._works:
            failures = self._failures
            async with self._first:
                if not self._works:
                    if self._last_failure is not None and self._failures > failures:
                        raise self._last_failure
                    return await self._connect_now()
        return await self._connect_now()

    async def _connect_now(self) -> Connection:
        try:
            return await self._connect_if_allowed()
        except TransportUnavailable as error:
            self._end_unusable()
            if self._logged_in:
                # A server may have a limit of its own. Those that work go on.
                if str(error) != self._said:
                    self._said = str(error)
                    logger.warning("%s Mails wait for the %d connections that there are.", error, self._logged_in)
                raise _NoPlace from error
            self._fail(error)
            raise
        except (AccountRefused, NoConnectionYet) as error:
            self._fail(error)
            raise

    def _fail(self, error: TransportUnavailable | AccountRefused | NoConnectionYet) -> None:
        self._works = isinstance(error, NoConnectionYet) and self._works
        self._failures += 1
        self._last_failure = error

    async def _connect_if_allowed(self) -> Connection:
        wait_ms = 0
        async with self._counting:
            if self._connections is not None:
                wait_ms = await self._connections.may_connect(self._open)
                if wait_ms == NO_PLACE:
                    raise _NoPlace
                if wait_ms > 0:
                    raise NoConnectionYet(wait_ms)
            self._open += 1
        session = None
        try:
            session = await self._log_in()
            self._works, self._said = True, ""
            if wait_ms < 0 and self._connections is not None:
                await self._connections.resume()
        except BaseException:
            if session is not None:
                session.close()
            self._closed()
            raise
        self._logged_in += 1
        return Connection(session)

    @property
    def _is_asking(self) -> bool:
        return self._asking is not None and not self._asking.done()

    def _open_more(self) -> None:
        while not self._is_asking and len(self._opening) < min(len(self._line), OPENED_AT_ONCE):
            opening = asyncio.create_task(self._open_one())
            self._opening.add(opening)
            opening.add_done_callback(self._opened)

    def _opened(self, opening: "asyncio.Task[None]") -> None:
        self._opening.discard(opening)
        if not opening.cancelled():
            self._open_more()

    async def _open_one(self) -> None:
        try:
            connection = await self._connect()
        except _NoPlace:
            if self._line and not self._is_asking:
                self._asking = asyncio.create_task(self._ask_on())
        except Exception as error:
            self._tell_all(error)
        else:
            self.give_back(connection)

    async def _stand_in_line(self, place: _Place) -> Connection:
        waiting = place.waiting
        try:
            # Until the first one works, or has failed, there's nothing else to wait for.
            while not waiting.done() and (await asyncio.wait((waiting,), timeout=LONGEST_WAIT_SECONDS))[1]:
                if self._logged_in or not self._opening:
                    break
        except asyncio.CancelledError:
            if waiting.done() and not waiting.exception():
                self.give_back(waiting.result())
            self._leave_line(place)
            raise
        if waiting.done():
            return waiting.result()
        self._leave_line(place)
        # With connections of its own the process has work: this mail alone goes back.
        raise NoConnectionYet(0 if self._logged_in else int(ASK_SECONDS * 1000))

    async def _ask_on(self) -> None:
        """Opens connections for those in line, one by one, for as long as there are any."""
        while self._line:
            self._place_left.clear()
            try:
                self.give_back(await self._connect())
            except _NoPlace:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_SECONDS):
                        await self._place_left.wait()
            except Exception as error:
                self._tell_all(error)

    def _tell_all(self, error: Exception) -> None:
        # Whatever it is, those who wait for it are told.
        while self._line:
            self._line.popleft().waiting.set_exception(error)

    def _next_in_line(self, connection: Connection) -> _Place | None:
        for place in self._line:
            if not (place.fresh and connection.mails) or self._is_asking:
                self._line.remove(place)
                return place
        return None

    def _leave_line(self, place: _Place) -> None:
        with contextlib.suppress(ValueError):  # It was served.
            self._line.remove(place)
        place.waiting.cancel()

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.expiry is not None:
                connection.expiry.cancel()
            if connection.session.usable:
                return connection
            self.drop(connection)
        return None

    def _end_unusable(self) -> None:
        for connection in [each for each in self._idle if not each.session.usable]:
            self._expire(connection)

    def _expire(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            if connection.expiry is not None:
                connection.expiry.cancel()
            self.drop(connection)

    def _closed(self) -> None:
        self._open -= 1
        self._place_left.set()
        if self._connections is not None:
            self._in_background(self._tell_count(self._connections))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _tell_count(self, connections: Connections) -> None:
        # The next connection tells the number again.
        async with self._counting:
            with contextlib.suppress(redis.RedisError):
                await connections.count_connections(self._open)

    async def _quit(self, connection: Connection) -> None:
        try:
            await connection.session.quit(QUIT_SECONDS)
        finally:
            self._closed()
