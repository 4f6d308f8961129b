"""Troubles are told once, together, with their end; what can wait isn't told at night."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from worker.base.alerting import AlertSettings, QuietHours
from worker.queue.events import happened
from worker.watching.alerts import HOLD_SECONDS, OVER_SECONDS, Known, event, plan, untold
from worker.watching.status import AccountStatus, CampaignCounts, Status
from worker.watching.troubles import KINDS, Trouble, fleet_troubles

DISK = Trouble("disk:mail1", "mail1 has 10 MB of disk left: remove something.")
DEAD = Trouble("dead", "1 message can't be worked on: mail-worker dead list says why.", urgent=False)
MINUTE = 60.0


def watch(minutes: list[list[Trouble]], *, quiet: bool = False) -> list[list[str]]:
    """What is told in each minute."""
    known: dict[str, Known] = {}
    told = []
    for number, troubles in enumerate(minutes):
        planned = plan(troubles, known, 1000.0 + number * MINUTE, quiet=quiet)
        told.append([f"{alert.state} {alert.key}" for alert in planned.alerts])
        known = {key: Known.read(one.as_json().encode()) for key, one in planned.known.items()}
    return told


def test_each_is_told_once_and_so_is_its_end() -> None:
    minutes_until_over = int(OVER_SECONDS / MINUTE) + 1
    told = watch([[DISK]] * 30 + [[]] * (minutes_until_over + 5))
    assert told[0] == []
    assert told[1] == ["began disk:mail1"]
    assert list(chain(*told)) == ["began disk:mail1", "over disk:mail1"]


def test_what_lasts_no_minute_is_not_told() -> None:
    assert list(chain(*watch([[DISK], [], [DISK], []] * 5))) == []


def test_what_comes_and_goes_was_never_over() -> None:
    assert list(chain(*watch([[DISK], [DISK], [], []] * 10))) == ["began disk:mail1"]


def test_changed_numbers_are_no_new_trouble() -> None:
    worse = replace(DISK, sentence="mail1 has 5 MB of disk left: remove something.")
    assert list(chain(*watch([[DISK], [DISK], [worse], [worse]]))) == ["began disk:mail1"]


def test_those_of_a_minute_come_together() -> None:
    assert watch([[DISK, DEAD]] * 2)[1] == ["began disk:mail1", "began dead"]


def test_at_night_only_what_is_urgent_is_told_and_the_rest_in_the_morning() -> None:
    known: dict[str, Known] = {}
    for number in range(3):
        planned = plan([DISK, DEAD], known, number * MINUTE, quiet=True)
        known = planned.known
        if number == 1:
            assert [alert.key for alert in planned.alerts] == ["disk:mail1"]
    assert [alert.key for alert in plan([DISK, DEAD], known, 3 * MINUTE, quiet=False).alerts] == ["dead"]


def test_what_could_not_be_told_is_told_a_minute_later() -> None:
    first = plan([DISK], {}, 0.0, quiet=False)
    second = plan([DISK], first.known, HOLD_SECONDS, quiet=False)
    assert second.alerts
    failed = untold(second, first.known)
    assert plan([DISK], failed.known, 2 * MINUTE, quiet=False).alerts
    told = second.known
    over = plan([], {key: replace(one, gone_at=60.0) for key, one in told.items()}, 60 + OVER_SECONDS, quiet=False)
    assert over.over == ["disk:mail1"]
    again = untold(over, {key: replace(one, gone_at=60.0) for key, one in told.items()})
    assert not again.over
    assert plan([], again.known, 120 + OVER_SECONDS, quiet=False).over == ["disk:mail1"]


def test_a_clock_that_was_ahead_holds_nothing_back() -> None:
    ahead = plan([DISK], {}, 7200.0, quiet=False).known
    after = plan([DISK], ahead, MINUTE, quiet=False).known
    assert [alert.state for alert in plan([DISK], after, 2 * MINUTE, quiet=False).alerts] == ["began"]
    told = {DISK.key: Known(DISK.sentence, True, 0.0, told_at=MINUTE, gone_at=7200.0)}
    gone = plan([], told, 2 * MINUTE, quiet=False).known
    assert plan([], gone, 2 * MINUTE + OVER_SECONDS, quiet=False).over == [DISK.key]


@pytest.mark.parametrize(
    ("hours", "at", "quiet"),
    [
        ("22:00-07:00", "23:30", True),
        ("22:00-07:00", "06:59", True),
        ("22:00-07:00", "07:00", False),
        ("12:00-13:00", "12:30", True),
        ("12:00-13:00", "13:30", False),
        ("00:00-02:00 Europe/Berlin", "23:30", True),
    ],
)
def test_quiet_hours(hours: str, at: str, quiet: bool) -> None:
    hour, minute = map(int, at.split(":"))
    midnight = 1_767_225_600.0  # of 1 January 2026, in UTC
    assert QuietHours.parse(hours).hold_at(midnight + hour * 3600 + minute * 60) is quiet


@pytest.mark.parametrize("text", ["22-7", "25:00-07:00", "22:00-07:00 Mars/Base", "22:00-07:00 ../../etc/passwd", "x"])
def test_wrong_quiet_hours(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        QuietHours.parse(text)


def test_what_happened_once() -> None:
    alert = event(happened("done", "Campaign c is complete: 1 sent, 0 failed.", 5.0).encode())
    assert alert is not None
    assert (alert.kind, alert.state, alert.urgent, alert.since) == ("done", "happened", False, 5.0)
    assert alert.shown == "Campaign c is complete: 1 sent, 0 failed."


def test_the_page_has_each_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    for kind, what in KINDS.items():
        assert f"| `{kind}` | {what} |" in page


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("paused: by an operator", False),
        ("cancelled: by an operator", False),
        ("paused: 550 5.7.1 blocked, ask your network operator", True),
        ("paused: 60 of 100 mails failed", True),
    ],
)
def test_a_pause_is_told_unless_somebody_said_it_himself(state: str, told: bool) -> None:
    campaign = CampaignCounts("c-1", 40, 60, 0, 0, 0, 0, 0, state)
    account = AccountStatus("smtp:a@b", "", 0.0, False, None, (), ())
    status = Status(
        *(0, 0, 0, 0, 0, 0, None, 0, None, 0, {}, 0, 0, 0, [], 0, 1, [campaign], 1, [], 0, {}, None, {}),
        account=account,
    )
    found = fleet_troubles(status, [], {}, AlertSettings(), 0.0)
    assert [trouble.key for trouble in found] == (["paused:c-1"] if told else [])
