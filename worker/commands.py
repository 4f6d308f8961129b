"""The words of the command `mail-worker`, and what each does."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from worker import __version__
from worker.base.redis_client import connect, explain
from worker.base.settings import JobSettings, Settings, load_job_settings, load_settings
from worker.errors import InvalidJob, MailWorkerError, OperatorMistake, SettingsError
from worker.mail.names import use_own_names
from worker.programs import PROGRAMS, active_settings

if TYPE_CHECKING:
    from worker.mail.templates import FindTemplate, Template
    from worker.operating.checks import Finding

Command = Callable[[Settings, argparse.Namespace], int]

# Each command imports what it needs: most are over in a second, and `supabase` alone takes longer.


def obey(words: list[str]) -> int:
    """Runs one command; returns its exit code.

    Raises:
        SettingsError: the environment has mistakes.
        MailWorkerError, redis.RedisError: it failed.
    """
    options = _parser().parse_args(words)
    if options.needs_no_service or (options.command is _check and options.jobs is not None):
        # A file's jobs are looked at without any service.
        jobs = load_job_settings()
        use_own_names(jobs.own_names)
        return (_preview if options.needs_no_service else _check_jobs)(jobs, options)
    if getattr(options, "needs_no_settings", False):
        return _logs(options)
    command: Command = options.command
    return command(active_settings(), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mail-worker", description="Sends a web app's campaign mails.")
    parser.add_argument("--version", action="version", version=f"mail-worker {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int], text: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(command=command, name_of_command=name, needs_no_service=command is _preview)
        return subparser

    add("run", _program, "Send mails from the queue until stopped (supervisord runs this).")
    add("record", _program, "Write results to Supabase until stopped (supervisord runs this).")
    check = add("check", _check, "Check settings, Redis, Supabase and the mail server or API, each with the fix.")
    check.add_argument("--settings", action="store_true", help="check the settings only, without any connection")
    check.add_argument("--jobs", type=Path, metavar="FILE", help="check a file's jobs, and no service")
    check.add_argument("--template", type=Path, metavar="FILE", help="with --jobs: this file is the template they need")
    show = add("preview", _preview, "Print the mail of a job as it would leave, and what each field was taken for.")
    show.add_argument("what", metavar="FILE|ID", help="a file of jobs, a waiting message's id, or a BullMQ job's")
    show.add_argument("--template", type=Path, metavar="FILE", help="take this file for the template that it needs")
    show.add_argument("--line", type=int, default=0, metavar="N", help="the job in this line of the file")
    verify = add("verify", _verify, "Wait until a host's processes are heard of and send (a deploy's gate runs this).")
    verify.add_argument("--expect", action="append", default=[], metavar="NAME=PID", type=_expectation)
    verify.add_argument("--canary", default="", metavar="ADDRESS", help="send a mail there on a campaign mail's path")
    verify.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    status = add("status", _status, "Show the queue, the hosts, the processes and the open campaigns.")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--watch", action="store_true", help="a live screen, until Ctrl-C")
    status.add_argument("--exit-code", action="store_true", help="exit with 3 if somebody should look")
    why = add("why", _why, "Tell one recipient's life: by an address, or a subscriber's id.")
    why.add_argument("who", metavar="ADDRESS|SUBSCRIBER")
    why.add_argument("--campaign", default="", metavar="ID", help="in this campaign alone")
    why.add_argument("--json", action="store_true", help="for programs")
    dashboard = add("dashboard", _dashboard, "Show a page about the fleet, for this host alone, until Ctrl-C.")
    dashboard.add_argument("--port", type=int, default=8025, metavar="PORT", help="on 127.0.0.1")
    logs = add("logs", _logs, "Show what this host's processes have logged.")
    logs.set_defaults(needs_no_settings=True)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="of the past, at the most")
    logs.add_argument("-s", "--since", default="", metavar="TIME", help="30m, 2h, 1d or 2026-01-31T12:00 (UTC)")
    logs.add_argument("-g", "--grep", default="", metavar="PATTERN", help="only lines with this (a regular expression)")
    logs.add_argument("--json", action="store_true", help="the lines as they are")
    logs.add_argument("--directory", type=Path, default=Path("/var/log/mail-worker"), help=argparse.SUPPRESS)
    add("alert-test", _alert_test, "Send one alert of each kind to whoever is told.")
    forget = add("forget", _forget, "Miss a host no more that is gone for good.")
    forget.add_argument("host", metavar="HOST", help="its name, as mail-worker status has it")
    add("healthy", _healthy, "Say whether this host's processes are heard of in Redis (a container's health check).")
    send_test = add("send-test", _send_test, "Send one test mail past the queue.")
    send_test.add_argument("address", metavar="ADDRESS")
    send_test.add_argument("--job", type=Path, metavar="FILE", help="send the mail of this file's first job there")
    enqueue = add("enqueue", _enqueue, "Queue the jobs of a file; nothing is queued if one of them is wrong.")
    enqueue.add_argument("file", metavar="FILE", type=Path, help="JSON lines, or CSV with a header line (.csv, .tsv)")

    def add_campaign_command(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        subparser = add(name, command, text)
        subparser.add_argument("campaign", metavar="CAMPAIGN", help="its id")
        return subparser

    add_campaign_command("pause", _operate, "Stop sending a campaign's mails; they wait.")
    report = add("campaign", _campaign, "Show how far a campaign is, and why mails of it failed.")
    report.add_argument(
        "campaign", nargs="?", default="", metavar="CAMPAIGN", help="its id; without it: all of the last week"
    )
    report.add_argument("--csv", type=Path, metavar="FILE", help="write who failed, when and in which words")
    report.add_argument("--json", action="store_true", help="for programs")
    resume = add_campaign_command("resume", _operate, "Go on with a paused campaign.")
    resume.add_argument(
        "--from", dest="sender", default="", metavar="SENDER", help="of its jobs whose own sender can't be read"
    )
    add_campaign_command("cancel", _operate, "Drop a campaign's waiting mails for good.")
    priority = add_campaign_command("priority", _operate, "Send a campaign before or after others.")
    priority.add_argument("priority", choices=("high", "normal", "low"))
    reconcile = add_campaign_command(
        "reconcile", _operate, "Compare database, ledger, queue and dead letters of a campaign."
    )
    reconcile.add_argument("--repair", action="store_true", help="record again what the database lacks")
    reconcile.add_argument("--jobs", type=Path, metavar="FILE", help="queue the jobs of missing recipients from it")
    reconcile.add_argument("--show", type=int, default=20, metavar="N", help="missing recipients to list")
    retry_failed = add_campaign_command("retry-failed", _operate, "Give a campaign's failed recipients another try.")
    retry_failed.add_argument("--reason", default="", metavar="TEXT", help="only those whose reason holds this text")
    retry_failed.add_argument("--before", type=_time, metavar="TIME", help="only those that failed before (UTC)")
    retry_failed.add_argument(
        "--jobs", type=Path, metavar="FILE", help="their jobs, where these aren't in BullMQ's queue"
    )
    account = add("account", _operate, "Forget that the provider refused or slowed the account.")
    account.add_argument("action", choices=("resume",))
    template = add("template", _template, "Texts that a campaign's jobs have in common.")
    template.add_argument("action", choices=("add", "list", "show", "remove"))
    template.add_argument("name", nargs="?", default="", metavar="NAME")
    template.add_argument("file", nargs="?", type=Path, metavar="FILE", help="HTML, or .json with subject, html, text")
    template.add_argument("--subject", default="", metavar="TEXT")
    template.add_argument("--text", type=Path, metavar="FILE", help="the plain part; made from the HTML without one")
    uncertain = add("uncertain", _operate, "Mails that may have been accepted without a reply.")
    uncertain.add_argument("action", choices=("list", "resend", "mark-sent"))
    uncertain.add_argument("--campaign", metavar="ID")
    uncertain.add_argument("--subscriber", metavar="ID")
    uncertain.add_argument("--all", action="store_true", help="resend or mark all that are held")
    dead = add("dead", _operate, "Messages that can't be worked on.")
    dead.add_argument("action", choices=("list", "show", "retry", "drop"))
    dead.add_argument("ids", nargs="*", metavar="ID")
    dead.add_argument("--all", action="store_true")
    return parser


def _program(settings: Settings, options: argparse.Namespace) -> int:
    return PROGRAMS[options.name_of_command](settings)


def _operate(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.operator_commands import COMMANDS

    return COMMANDS[options.name_of_command](settings, options)


def _time(text: str) -> datetime:
    time_given = datetime.fromisoformat(text)
    return time_given if time_given.tzinfo else time_given.replace(tzinfo=UTC)


def _check(settings: Settings, options: argparse.Namespace) -> int:
    print("ok   settings  complete", flush=True)
    if options.settings:
        return 0
    from worker.operating.checks import run_checks

    return _report(run_checks(settings))


def _check_jobs(jobs: JobSettings, options: argparse.Namespace) -> int:
    from worker.operating.preview import Remarks
    from worker.queue.producer import check_file

    found = Remarks()
    try:
        total = check_file(options.jobs, jobs.defaults, _finder(options), found.add)
    finally:
        for sentence in found.sentences():
            print(f"     jobs      {sentence}", flush=True)
    print(f"ok   jobs      {total:,} in {options.jobs}")
    return 0


def _finder(options: argparse.Namespace) -> "FindTemplate":
    """Templates from the file of --template, or else from Redis, for which alone the worker's settings are needed."""
    from worker.mail.templates import read_template
    from worker.operating.template_commands import read_file
    from worker.queue.templates import finder

    @cache
    def in_redis() -> "FindTemplate":
        return finder(connect(load_settings().redis_url))

    def find(name: str) -> "Template":
        if options.template is not None:
            return read_template(name, read_file(options.template))
        try:
            ask = in_redis()
        except SettingsError:
            raise InvalidJob(
                f"it needs the template {name}: give its file by --template, or the worker's settings, by which Redis"
                " is asked"
            ) from None
        return ask(name)

    return find


def _preview(jobs: JobSettings, options: argparse.Namespace) -> int:
    from worker.operating.preview import job_of_file, job_of_queue, preview

    path = Path(options.what)
    if path.exists():
        raw, where = job_of_file(path, options.line), str(path)
    elif path.suffix in (".json", ".jsonl", ".csv", ".tsv") or path.name != options.what:
        raise MailWorkerError(f"{path} can't be read: No such file or directory.")
    else:
        settings = load_settings()
        raw, where = job_of_queue(connect(settings.redis_url), settings.bullmq, options.what), options.what
    try:
        shown = preview(raw, jobs, _finder(options))
    except InvalidJob as error:
        print(f"{where} can't become a mail: {error}.", file=sys.stderr)
        return 1
    print("\n".join(shown.lines), file=sys.stderr)
    sys.stdout.buffer.write(shown.mail.data)
    return 0


def _template(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.template_commands import template

    return template(settings, options)


def _expectation(text: str) -> tuple[str, int]:
    name, _, pid = text.rpartition("=")
    return name, int(pid)


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.verify import verify

    return _report(verify(settings, dict(options.expect), options.canary, options.timeout))


def _report(findings: Iterable["Finding"]) -> int:
    well = True
    for finding in findings:
        print(finding, flush=True)
        well = well and finding.ok
    return 0 if well else 1


def _status(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.printing import print_lines
    from worker.operating.status import show
    from worker.operating.status_json import as_json, is_well
    from worker.watching.status import read_status

    client = connect(settings.redis_url)
    look = partial(read_status, client, settings.account_name, settings.mail_rate, settings.bullmq)
    if options.watch:
        from worker.operating.watch import watch

        if options.json or not sys.stdout.isatty():
            raise OperatorMistake(
                "status --watch is a screen, and there's no terminal to show it in: ssh -t makes one; --json is for"
                " a single look."
            )
        watch(look)
        return 0
    try:
        status = look()
    except redis.RedisError as error:
        if options.json:
            print(json.dumps({"error": explain(error)}))
        raise
    if options.json:
        print(json.dumps(as_json(status, settings.sandbox), ensure_ascii=False))
    else:
        print_lines(show(status, settings.sandbox))
    return 3 if options.exit_code and not is_well(status) else 0


def _campaign(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.campaign import campaign
    from worker.operating.campaigns import campaigns

    return campaign(settings, options) if options.campaign else campaigns(settings, options)


def _why(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.printing import print_lines
    from worker.operating.why import Why

    if not options.who.strip():
        raise OperatorMistake("Nobody is named: mail-worker why ADDRESS, or a subscriber's id.")
    answer = Why(connect(settings.redis_url), settings).find(options.who.strip(), options.campaign)
    if options.json:
        print(answer.as_json())
        return answer.exit_code
    lines = [line for life in answer.lives for line in life.lines()]
    print_lines(lines or [answer.nothing(options.who)], indent=23)
    for sentence in answer.missing:
        print(sentence, file=sys.stderr)
    return answer.exit_code


def _dashboard(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.dashboard import serve

    with serve(connect(settings.redis_url), settings, options.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/ shows the fleet, on this host, until Ctrl-C", flush=True)
        server.serve_forever()
    return 0


def _logs(options: argparse.Namespace) -> int:
    from worker.operating.log_files import logs

    return logs(options, options.directory)


def _alert_test(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.alert_commands import alert_test

    return alert_test(settings, options)


def _forget(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.alert_commands import forget

    return forget(settings, options)


def _healthy(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.healthy import judge
    from worker.queue.processes import alive

    well, sentence = judge(alive(connect(settings.redis_url)), settings.host_name, time.time())
    print(sentence)
    return 0 if well else 1


def _send_test(settings: Settings, options: argparse.Namespace) -> int:
    from worker.operating.preview import job_of_file
    from worker.operating.testmail import send_test

    raw = None if options.job is None else job_of_file(options.job, 0)
    print(send_test(settings, options.address, raw))
    return 0


def _enqueue(settings: Settings, options: argparse.Namespace) -> int:
    from worker.mail.pacing import seconds_to_send
    from worker.operating.preview import Remarks
    from worker.operating.status import duration
    from worker.queue.producer import check_file, enqueue, read_jobs
    from worker.queue.templates import finder

    client, found = connect(settings.redis_url), Remarks()
    total = check_file(options.file, settings.jobs.defaults, finder(client), found.add)
    for sentence in found.sentences():
        print(sentence, file=sys.stderr)
    queued = 0
    try:
        for so_far in enqueue(client, (job for _, job in read_jobs(options.file))):
            queued = so_far
    except redis.RedisError as error:
        print(
            f"{explain(error)} {queued} of {total} jobs are queued; queue the file again once it's solved:"
            " a recipient of a campaign gets its mail once all the same.",
            file=sys.stderr,
        )
        return 1
    seconds = seconds_to_send(queued, settings.mail_rate, [0] * len(settings.mail_rate), None)
    print(f"queued {queued} jobs" + (f"; by MAIL_RATE they take at least {duration(seconds)}" if seconds else ""))
    return 0
