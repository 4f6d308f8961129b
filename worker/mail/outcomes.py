"""What became of one try at one mail, and what a server's reply means. Pure: nothing here does I/O."""

import re
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Sent:
    """The server accepted the mail. `reply` is its answer."""

    reply: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This recipient won't get this mail; trying again is pointless. `reason` holds the server's words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """Refused for good, in words that may be the account's matter: tried once more before the recipient fails."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Refused for now: try again later, which spends an attempt."""

    reason: str


@dataclass(frozen=True, slots=True)
class Slow:
    """The provider wants less speed, or has trouble: later, without spending an attempt.

    Args:
        after_ms: 0 if it doesn't say when.
        maybe_accepted: the mail may have been accepted; its idempotency key makes a second copy harmless for a while.
    """

    reason: str
    after_ms: int = 0
    maybe_accepted: bool = False


@dataclass(frozen=True, slots=True)
class Hindered:
    """Nothing was accepted, and nobody knows whether it's this mail's matter or the server's: the connection ended
    under it, or what it was told is about something else. `reason` is a sentence."""

    reason: str


@dataclass(frozen=True, slots=True)
class SenderRefused:
    """The provider won't take mails from this sender's address: no recipient is to blame."""

    reason: str


@dataclass(frozen=True, slots=True)
class CampaignRefused:
    """The provider takes others' mails, but none of this campaign's: no recipient is to blame."""

    reason: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The connection was lost after the mail's content had gone out: it may have been accepted."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """The mail must not leave now; the claim says why."""


Outcome = Sent | Failed | Doubtful | Retry | Slow | Hindered | SenderRefused | CampaignRefused | Uncertain | NotClaimed


class Stage(StrEnum):
    """What a server's reply answers (RFC 5321, 3.3; RFC 4954)."""

    LOGIN = "login"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    CONTENT = "the mail's content"


class Reply(StrEnum):
    """What a refusal is about."""

    PACE = "pace"
    LOGIN = "login"
    BLOCKED = "blocked"
    SENDER = "sender"
    SOFT = "soft"
    HARD = "hard"
    CONTENT = "content"


_ANY = ".*"
_ALL = frozenset(Stage)
_SENDING = _ALL - {Stage.LOGIN}
_LOGIN = frozenset({Stage.LOGIN})
_RECIPIENT = frozenset({Stage.RCPT})


@dataclass(frozen=True, slots=True)
class _Rule:
    """Matches a reply by its code, and where given by its enhanced status code (RFC 3463), words and stage."""

    codes: re.Pattern[str]
    enhanced: re.Pattern[str]
    #: Patterns; `re` compiles them, and keeps them, when a reply comes of which they are asked. Most need no words.
    words: tuple[str, ...]
    means: Reply
    source: str
    stages: frozenset[Stage]

    def matches(self, code: str, enhanced: str, text: str, stage: Stage) -> bool:
        return (
            stage in self.stages
            and self.codes.fullmatch(code) is not None
            and self.enhanced.fullmatch(enhanced) is not None
            and all(re.search(words, text, re.IGNORECASE) for words in self.words)
        )


def _rule(
    codes: str,
    enhanced: str,
    words: str | tuple[str, ...],
    means: Reply,
    source: str,
    stages: frozenset[Stage] = _SENDING,
) -> _Rule:
    """Several `words` must all be there."""
    patterns = (words,) if isinstance(words, str) else words
    return _Rule(
        re.compile(codes),
        re.compile(enhanced),
        tuple(pattern for pattern in patterns if pattern != _ANY),
        means,
        source,
        stages,
    )


# Whose matter a limit is stands in the words alone: a used-up quota comes as a plain 550, 450 or 554 (each of these was
# seen; tests/unit/smtp_replies.csv has them with their sources), and so does a full mailbox.
#: What an account may send, in a day or in an hour.
_SENDING_LIMIT = (
    r"\b(send(ing)?|outgoing|outbound|submission|relay|smtp)\b[^.]{0,40}\b(limit|quota)|submission.?quota"
    r"|\blimit\b[^.]{0,30}\b(outgoing|sent)\b"
)
_IN_A_DAY = r"\bdaily\b|\b(a|per) day\b|/ ?1?d\b|\b24 ?h"
_IN_LESS = r"\b(second|minute|hour)s?\b|\bhourly\b|/ ?1?[hms]\b|\bpeak\b"
#: The same without a word for sending; only of somebody who sends.
_OUR_LIMIT = (
    r"\b(you|your|messages?|e?-?mails|tenant|customer|sender|max\w*( e?-?mails)?( credits)?)\b[^.]{0,60}"
    r"\b(exceed\w*|reached)\b"
    r"|\b(you|tenant|domain \S+|sender) (\S+ ){0,2}(exceeded|reached)\b"
    r"|\bonly \d+ (recipients|messages|e?-?mails) per\b|\bdaily (limit|quota)\b"
    r"|\b(messages|recipients|e?-?mails) per (hour|day) exceeded\b"
)
_ACCOUNT = (
    r"unusual (sending )?activity|unusual (amount|rate) of unsolicited"
    r"|\b(outgoing|sending)( mail)?( has been| is| was)?( temporarily)? (paused|suspended|disabled|blocked)"
    r"|\b(bad outbound|banned|suspected spam) sender"
    r"|\b(your|sending|sender'?s?|smtp) account[^.]{0,40}"
    r"\b(suspended|disabled|blocked|locked|banned|terminated|deactivated|activated|pending|on hold)"
    r"|domain \S+ is not allowed to send|\bcredits? (exceeded|used)|out of credits|OutboundSpam|WASCL"
)
_MAILBOX = (
    r"\b(mail|in)box\b|\b(disk|storage)\b|over ?quota|tried to reach|trying to (contact|reach)|receive limit"
    r"|receiving mail|received too much|quota exceeded \(|exceed\w* (its|his|their) (quota|storage)"
    r"|\b(user|recipient)('s)?\b[^.]{0,20}\b(quota|full)\b"
)
#: Limits of one mail.
_ONE_MAIL = r"\bsize\b|\blength\b|too (big|large|long)\b|\bhops?\b|\bloop"
_HASTE = (
    r"rate.?limit|\brate\b[^.]{0,20}(over|exceed|limit)|exceed\w*[^.]{0,30}\brate\b|throttl|slow down|frequency limited"
    r"|too (many|frequent) (concurrent |simultaneous |smtp )*"
    r"(messages|e?-?mails|requests|connect\w*|sessions|recipients)"
)

# The first rule that matches counts.
SMTP_RULES = (
    _rule("454|5..", _ANY, _ANY, Reply.LOGIN, "RFC 4954, 6", _LOGIN),
    _rule("4..", _ANY, _ANY, Reply.PACE, "RFC 5321, 4.2.1: its trouble, not the password's", _LOGIN),
    # The most frequent refusals, of which no word need be read.
    _rule("5..", r"5\.1\.([1236]|10)", _ANY, Reply.HARD, "RFC 3463, 3.2: no such mailbox", _SENDING - {Stage.MAIL}),
    _rule("454", _ANY, r"throttling.*(daily|quota)", Reply.BLOCKED, "Amazon SES, SMTP response codes: daily quota"),
    _rule("454", _ANY, "throttling", Reply.PACE, "Amazon SES, SMTP response codes: maximum sending rate"),
    _rule("451", _ANY, "maximum credits exceeded", Reply.BLOCKED, "SendGrid, SMTP errors"),
    _rule("454", r"4\.7\.0|", _ANY, Reply.LOGIN, "RFC 4954, 6: temporary authentication failure"),
    _rule("530|534|535|538", _ANY, _ANY, Reply.LOGIN, "RFC 4954, 6"),
    _rule("5..", r"5\.7\.57", _ANY, Reply.LOGIN, "Microsoft, NDR codes: the client isn't authenticated"),
    _rule("550", _ANY, "unauthenticated senders not allowed", Reply.LOGIN, "SendGrid, SMTP errors"),
    _rule("550", r"5\.4\.5", _ANY, Reply.BLOCKED, "Gmail, SMTP errors: daily sending limit exceeded"),
    _rule(
        "5..", r"5\.1\.(8|90)", "|".join((_ACCOUNT, "blocked", "limit")), Reply.BLOCKED, "Zoho; Microsoft, NDR codes"
    ),
    _rule(
        "5..",
        r"5\.7\.(23[23]|50[1-3]|508|511|6[0-4]\d|70[58]|750)",
        _ANY,
        Reply.BLOCKED,
        "Microsoft, NDR codes: the account, tenant or address is banned, or sent too much",
    ),
    _rule("550", r"5\.7\.(515|26)", _ANY, Reply.BLOCKED, "Microsoft, Gmail: the sender's domain isn't authenticated"),
    _rule(
        "554",
        _ANY,
        "email address is not verified|identities failed the check",
        Reply.BLOCKED,
        "Amazon SES, SMTP response codes: identity isn't verified",
    ),
    _rule("[45]..", _ANY, (_IN_A_DAY, _SENDING_LIMIT), Reply.BLOCKED, "Gmail's relay, Microsoft, hosters"),
    _rule("[45]..", _ANY, (_IN_LESS, _SENDING_LIMIT), Reply.PACE, "Gmail's relay, hosters"),
    _rule("[45]..", _ANY, _SENDING_LIMIT, Reply.BLOCKED, "Microsoft, IONOS, Plesk"),
    _rule("[45]..", _ANY, _ACCOUNT, Reply.BLOCKED, "Zoho, Microsoft, Amazon SES, Mailgun, SendGrid, Brevo"),
    _rule(
        "5..",
        _ANY,
        r"sender address rejected(?!.*(limit|quota|exceed))|not owned by user|SendAsDenied"
        r"|permissions to send as|unconfigured sending domain|not authorized to send from|relaying disallowed as",
        Reply.SENDER,
        "Postfix's smtpd_sender_login_maps, said in reply to RCPT TO; Microsoft: 550 5.7.60, 5.2.252; SparkPost;"
        " SendGrid; Zoho",
    ),
    _rule("452", r"4\.3\.1", _ANY, Reply.PACE, "RFC 3463, 3.4: the server's storage is full"),
    # A mailbox that is full, greylisted or asleep is one recipient's matter, whatever the code in front of it.
    _rule("450|451|452", r"4\.[12]\.\d+", _ANY, Reply.SOFT, "RFC 3463, 3.2 and 3.3: addressing and mailbox status"),
    _rule("5..", r"5\.2\.12[12]", _ANY, Reply.SOFT, "Microsoft, NDR codes: the recipient gets too many at present"),
    _rule("4..", _ANY, r"gr[ea]y-?list", Reply.SOFT, "RFC 6647, 2: greylisting"),
    _rule("4..", _ANY, f"{_MAILBOX}|{_ONE_MAIL}", Reply.SOFT, "RFC 5321, 4.2.2: 450 and 452 of a mailbox"),
    _rule("5..", r"5\.[12]\.\d+", "recipient|user|mailbox", Reply.HARD, "RFC 3463, 3.2 and 3.3"),
    _rule(
        "5..", _ANY, f"{_MAILBOX}|{_ONE_MAIL}", Reply.HARD, "RFC 5321, 4.2.2: 550 and 552 of a mailbox, 552 of a mail"
    ),
    _rule("5..", _ANY, r"\bscore\b", Reply.CONTENT, "SpamAssassin's milters: a score that exceeds a threshold"),
    _rule("[45]..", _ANY, (_IN_A_DAY, _OUR_LIMIT), Reply.BLOCKED, "cPanel's and Postfix's policies by the day"),
    _rule("[45]..", _ANY, (_IN_LESS, _OUR_LIMIT), Reply.PACE, "cPanel's and Postfix's policies by the hour"),
    _rule("[45]..", _ANY, _HASTE, Reply.PACE, "Exim, postfwd, Tencent, SendGrid"),
    _rule("[45]..", _ANY, _OUR_LIMIT, Reply.BLOCKED, "DirectAdmin, StartMail, Postfix's policies"),
    _rule("451", _ANY, "MI:SFQ", Reply.PACE, "NetEase: too many mails in 15 minutes"),
    _rule("5..", _ANY, _ANY, Reply.SENDER, "RFC 5321, 3.3: the reverse-path isn't acceptable", frozenset({Stage.MAIL})),
    _rule("421|432", _ANY, _ANY, Reply.PACE, "RFC 5321, 3.8: closing channel; Microsoft 365: 432 4.3.21"),
    _rule("452", r"4\.4\.5|4\.5\.3", _ANY, Reply.PACE, "RFC 3463, 3.5 and 3.6: congestion, too many recipients"),
    _rule("451", _ANY, _ANY, Reply.SOFT, "RFC 5321, 4.2.3: an error in processing this recipient", _RECIPIENT),
    _rule("451", _ANY, _ANY, Reply.PACE, "RFC 5321, 4.2.3: local error in processing"),
    _rule("4..", _ANY, _ANY, Reply.SOFT, "RFC 5321, 4.2.1: transient"),
    _rule("5..", r"5\.7\.\d+", _ANY, Reply.CONTENT, "RFC 3463, 3.8: security or policy status"),
    _rule("5..", _ANY, _ANY, Reply.HARD, "RFC 5321, 4.2.1: permanent"),
)

_NO_MAILBOX = re.compile(
    r"(user|mailbox|recipient|address(ee)?)( \S+){0,3} "
    r"(unknown|(was |is )?not found|does(n't| not) exist|is (invalid|disabled))"
    r"|(unknown|invalid|no such|no valid) (local )?(user|mailbox|recipient|address)|RecipientNotFound"
    r"|undeliverable address|doesn't have an? \S+ account",
    re.IGNORECASE,
)

#: Of a reply; a server may write a book.
_READ_CHARACTERS = 1000
_OF_ONE_MAIL = re.compile(f"{_MAILBOX}|{_ONE_MAIL}", re.IGNORECASE)

# Directly behind the code (RFC 2034, 4), and of its class; Cisco's gateways put a # in front.
_ENHANCED = re.compile(r"#?([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


def classify_smtp(code: int, text: str, stage: Stage) -> Reply:
    """What an SMTP refusal means."""
    text = text[:_READ_CHARACTERS]
    enhanced = _enhanced(code, text)
    return next((rule.means for rule in SMTP_RULES if rule.matches(str(code), enhanced, text, stage)), Reply.SOFT)


def is_hard_bounce(words: str) -> bool:
    """Whether a recipient's failure says that there's no such mailbox: `550 5.1.1 …` (RFC 3463, 3.2), or so in words.

    Args:
        words: the reply, with its code in front; something else is no bounce.
    """
    code, _, text = words.partition(" ")
    if not re.fullmatch(r"5\d\d", code):
        return False
    enhanced = _enhanced(int(code), text)
    # The sender's address is 5.1.7 and 5.1.8, its host's 5.1.9.
    return bool(re.fullmatch(r"5\.1\.([0-6]|10)|5\.2\.1", enhanced) or _NO_MAILBOX.search(text))


def is_of_one_mail(words: str) -> bool:
    """Whether a failure's words say that it's the mailbox's matter, or this mail's: however many mails are refused so,
    the account isn't to blame.

    Args:
        words: the reply, with its code in front.
    """
    return is_hard_bounce(words) or _OF_ONE_MAIL.search(words) is not None


def is_overload(words: str) -> bool:
    """Whether a soft refusal is the server's trouble with a recipient (451), not its mailbox's."""
    return words.startswith("451 ")


def _enhanced(code: int, text: str) -> str:
    found = _ENHANCED.match(text)
    return found.group(1) if found and found.group(1)[0] == str(code)[0] else ""
