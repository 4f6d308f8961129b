"""What an operator does to a running fleet: `mail-worker pause`, `uncertain`, `dead` and the like. Each function prints
sentences and returns the command's exit code."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from worker.base.redis_client import connect
from worker.base.settings import Settings
from worker.errors import DatabaseRejected, InvalidJob, OperatorMistake
from worker.ledger.uncertain import UncertainMails
from worker.mail.addresses import parse_address
from worker.queue.control import Control
from worker.queue.dead_letters import DeadLetters

SHOWN_BODY_CHARACTERS = 500


def pause(settings: Settings, options: Namespace) -> int:
    """`mail-worker pause CAMPAIGN`"""
    control = Control(connect(settings.redis_url), settings.bullmq)
    known = control.knows(options.campaign)
    if not control.pause(options.campaign):
        raise OperatorMistake(
            f"Campaign {options.campaign} was paused or cancelled before: mail-worker resume takes either back."
        )
    print(f"campaign {options.campaign} is paused; its mails wait")
    if not known:
        _doubt(options.campaign)
    return 0


def _doubt(campaign: str) -> None:
    print(
        f"No mail of it has been seen yet: if its id is wrong, take that back: mail-worker resume {campaign}",
        flush=True,
    )


def resume(settings: Settings, options: Namespace) -> int:
    """`mail-worker resume CAMPAIGN [--from SENDER]`"""
    if options.sender:
        try:
            parse_address(options.sender, "--from")
        except InvalidJob as error:
            raise OperatorMistake(f"{error}: write it as 'NAME <ADDRESS>'.") from None
    was = Control(connect(settings.redis_url), settings.bullmq).resume(options.campaign, options.sender)
    if was is None:
        raise OperatorMistake(f"Campaign {options.campaign} isn't paused: see mail-worker status.")
    if was == "paused":
        print(f"campaign {options.campaign} goes on")
    else:
        print(
            f"campaign {options.campaign} isn't cancelled any more; queue its jobs again, or retry the failed ones in"
            " Bull Board: who got a mail gets no other"
        )
    return 0


def cancel(settings: Settings, options: Namespace) -> int:
    """`mail-worker cancel CAMPAIGN`"""
    control = Control(connect(settings.redis_url), settings.bullmq)
    known = control.knows(options.campaign)
    dropped = control.cancel(options.campaign)
    print(f"campaign {options.campaign} is cancelled; {dropped} waiting mails won't be sent", flush=True)
    if settings.bullmq:
        print(f"those in {settings.bullmq} fail when their turn comes", flush=True)
    if not known:
        _doubt(options.campaign)
    if not control.wait_for_mails_in_flight():
        print(
            "Some mails that were on their way before are still without a server's reply: they may arrive.",
            file=sys.stderr,
        )
        return 1
    print("no mail of it leaves any more")
    return 0


def priority(settings: Settings, options: Namespace) -> int:
    """`mail-worker priority CAMPAIGN PRIORITY`"""
    Control(connect(settings.redis_url), settings.bullmq).set_priority(options.campaign, options.priority)
    print(f"campaign {options.campaign} has the priority {options.priority}")
    if settings.bullmq:
        print(f"that's for files and Dramatiq's queue: in {settings.bullmq} BullMQ's own priority holds")
    return 0


def account(settings: Settings, options: Namespace) -> int:
    """`mail-worker account resume`"""
    from worker.queue.gate import LONGEST_CLOSED_MS
    from worker.sending.account import resume_account

    resume_account(connect(settings.redis_url), settings.account_name)
    print(
        f"the account's pauses and slow-downs are forgotten; processes try again within {LONGEST_CLOSED_MS // 1000} s"
    )
    return 0


def uncertain(settings: Settings, options: Namespace) -> int:
    """`mail-worker uncertain list|resend|mark-sent`"""
    mails = UncertainMails(connect(settings.redis_url))
    chosen = list(mails.all(options.campaign, options.subscriber))
    if options.action == "list":
        for mail in chosen:
            where = (
                f"campaign {mail.entry.campaign_id}, subscriber {mail.entry.subscriber_id}"
                if mail.entry.campaign_id is not None
                else f"mail {mail.entry.identity}"
            )
            state = "sent again" if mail.resolution == "resent" else mail.resolution
            print(f"{_when(mail.at)}  {state}  {where}: {mail.why}")
        held = sum(mail.held for mail in chosen)
        print(f"{len(chosen)} uncertain mails, {held} of them held")
        return 0
    if options.campaign is None and not options.all:
        raise OperatorMistake("Say which: --campaign ID, with --subscriber ID for one mail, or --all.")
    held_mails = [mail for mail in chosen if mail.held]
    if options.action == "resend":
        done = sum(mails.resend(mail) for mail in held_mails)
        print(f"{done} held mails are queued again")
        if done < len(held_mails):
            raise OperatorMistake(
                f"{len(held_mails) - done} can't be: their jobs aren't among BullMQ's failed ones any more. Queue them"
                " again in the app, then: mail-worker uncertain list"
            )
    else:
        for mail in held_mails:
            mails.mark_sent(mail)
        print(f"{len(held_mails)} held mails are marked as sent")
    return 0


def dead(settings: Settings, options: Namespace) -> int:
    """`mail-worker dead list|show|retry|drop`"""
    letters = DeadLetters(connect(settings.redis_url))
    if options.action == "list":
        number = 0
        for letter in letters.all():
            number += 1
            campaign = f" campaign {letter.campaign_id}:" if letter.campaign_id else ""
            print(f"{_when(letter.at)}  {letter.identity} {campaign} {letter.reason}")
        print(f"{number} dead letters")
        return 0
    if not options.ids and not options.all:
        raise OperatorMistake("Say which: the IDs that mail-worker dead list shows, or --all.")
    identities = [letter.identity for letter in letters.all()] if options.all else options.ids
    if options.action == "show":
        for identity in identities:
            print(_readable(letters.message(identity), identity))
        return 0
    act: Callable[[str], bool] = letters.retry if options.action == "retry" else letters.drop
    missing = [identity for identity in identities if not act(identity)]
    done = "queued again" if options.action == "retry" else "dropped"
    print(f"{len(identities) - len(missing)} dead letters are {done}")
    if missing:
        raise OperatorMistake(f"There's no dead letter {', '.join(missing)}: see mail-worker dead list.")
    return 0


def reconcile(settings: Settings, options: Namespace) -> int:
    """`mail-worker reconcile CAMPAIGN [--repair] [--jobs FILE]`"""
    from worker.operating.reconcile import Reconciliation
    from worker.recording.database import SupabaseDatabase

    database = SupabaseDatabase(settings)
    try:
        reconciliation = Reconciliation(connect(settings.redis_url), database, options.campaign, settings.bullmq)
        report = reconciliation.report()
        for subscribers, words in (
            (report.sent, "sent"),
            (report.unrecorded, "of them unrecorded: the database doesn't say so yet"),
            (report.failed, "failed for good"),
            (report.given_up, "given up, though they may have arrived: see mail-worker uncertain list"),
            (report.waiting, "waiting in the queue"),
            (report.held, "held: see mail-worker uncertain list"),
            (report.dead, "in the dead letters: see mail-worker dead list"),
            (report.ended, "failed in BullMQ's queue, as cancelled or by another worker: retry them in Bull Board"),
            (report.missing, "missing: neither sent nor failed, and in no queue"),
            (report.without_row, "without a row in the database"),
        ):
            print(f"{len(subscribers):>8} {words}")
        for subscriber_id in sorted(report.missing)[: options.show]:
            print(f"missing  {subscriber_id}")
        if options.repair:
            queued = reconciliation.repair(report, options.jobs)
            print(f"repaired: {len(report.unrecorded)} results recorded again, {queued} jobs queued")
            if len(report.missing) > queued:
                raise OperatorMistake(
                    f"{len(report.missing) - queued} missing recipients have no job: export their jobs from the app,"
                    f" then: mail-worker reconcile {options.campaign} --repair --jobs FILE"
                )
        return 1 if (report.missing or report.unrecorded) and not options.repair else 0
    except DatabaseRejected as error:
        raise OperatorMistake(str(error)) from None
    finally:
        database.close()


def retry_failed(settings: Settings, options: Namespace) -> int:
    """`mail-worker retry-failed CAMPAIGN [--reason TEXT] [--before TIME] [--jobs FILE]`"""
    from worker.operating.retry_failed import FailedMails

    mails = FailedMails(connect(settings.redis_url), options.campaign, settings.bullmq)
    if mails.is_cancelled:
        raise OperatorMistake(
            f"Campaign {options.campaign} is cancelled, and its mails are dropped: first mail-worker resume"
            f" {options.campaign}"
        )
    failed = mails.find(options.reason, options.before)
    done = mails.retry(failed.chosen, options.jobs)
    print(f"{done} of {len(failed.chosen)} failed recipients get another try", flush=True)
    if failed.bounced:
        print(f"{len(failed.bounced)} whose mailbox doesn't exist are left out: name the server's words by --reason")
    if failed.uncertain:
        print(f"{len(failed.uncertain)} that may have got the mail are left out: see mail-worker uncertain list")
    if done < len(failed.chosen):
        raise OperatorMistake(
            f"{len(failed.chosen) - done} stay failed, since their jobs are gone: export them from the app as for"
            f" mail-worker enqueue, then: mail-worker retry-failed {options.campaign} --jobs FILE"
        )
    return 0


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _readable(data: bytes | None, identity: str) -> str:
    if data is None:
        raise OperatorMistake(f"There's no dead letter {identity}: see mail-worker dead list.")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return repr(data[:SHOWN_BODY_CHARACTERS])
    return json.dumps(_shortened(message), indent=2, ensure_ascii=False)


def _shortened(value: object) -> object:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > SHOWN_BODY_CHARACTERS:
        return f"{value[:SHOWN_BODY_CHARACTERS]}… ({len(value):,} characters)"
    return value


COMMANDS: Mapping[str, Callable[[Settings, Namespace], int]] = {
    "pause": pause,
    "resume": resume,
    "cancel": cancel,
    "priority": priority,
    "account": account,
    "uncertain": uncertain,
    "dead": dead,
    "reconcile": reconcile,
    "retry-failed": retry_failed,
}
