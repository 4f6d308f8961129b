"""The names of all keys in Redis: this package's own, and Dramatiq's (described in its dispatch.lua)."""

QUEUE_NAMESPACE = "dramatiq"
QUEUE = "mail"
ACTOR = "send_mail"

OUTBOX = "mail:outbox"
PARKED_RESULTS = "mail:outbox:parked"
OPEN_CAMPAIGNS = "mail:campaigns"
#: ZSET campaign → time in ms at which it was closed, for some minutes: its app may set its status back.
CLOSED_CAMPAIGNS = "mail:campaigns:closed"
#: HASH campaign → [ms, reason]: those that the database will never take as they are.
PARKED_CAMPAIGNS = "mail:campaigns:parked"
#: ZSET campaign → time in ms at which it's looked at whether its ledger may go (lua/forget.lua).
LEDGERS = "mail:ledgers"
PROCESSES = "mail:processes"
#: HASH campaign → paused | cancelled, with the reason; a campaign that isn't in it is running.
CONTROL = "mail:control"
#: HASH campaign → high | low; a campaign that isn't in it has the normal priority.
PRIORITIES = "mail:priorities"
#: ZSET campaign → ms since when one of those two alone tells of it (lua/forget_control.lua).
IDLE_CAMPAIGNS = "mail:control:idle"
#: HASH of mails that may have been accepted before their process or connection died, and those of their messages
#: that are held.
UNCERTAIN = "mail:uncertain"
HELD_MESSAGES = "mail:uncertain:msgs"
#: HASH month → Redis commands that this fleet's processes sent; `MONTH:inside` → those that their scripts ran.
COMMANDS = "mail:commands"
#: HASH result → number of mails, since the fleet's first day (lua/record.lua).
TOTALS = "mail:totals"
#: HASH of how long mails wait and take, since the fleet's first day (worker/base/durations.py).
DURATIONS = "mail:durations"
#: HASH host → what it tells about itself once a minute; and HASH host → what is wrong with it (lua/watch.lua).
HOSTS = "mail:hosts"
HOST_TROUBLES = "mail:hosts:troubles"
#: HASH broker → what it tells about itself every five minutes (roles/redis/files/broker-tell).
BROKERS = "mail:brokers"
#: STRING: the host whose recorder watches the fleet, for some minutes.
WATCHER = "mail:watcher"
#: LIST of what was counted each minute, the newest first, for a day (worker/watching/points.py).
POINTS = "mail:points"
#: HASH key → what is wrong with the fleet, since when, and whether it was told (worker/watching/alerts.py).
TROUBLES = "mail:troubles"
#: LIST of what happened once and is to be told; and LIST of what was told last, the newest first.
EVENTS = "mail:events"
TOLD = "mail:told"

#: HASH template → `{subject, html, text}` in JSON; apps write it too.
TEMPLATES = "mail:templates"

#: Dramatiq keeps dead letters for 7 days, and so their reasons are kept.
DEAD_LETTER_SECONDS = 7 * 86_400
DEAD_LETTER_REASON_PREFIX = "mail:dead:"

WAITING = f"{QUEUE_NAMESPACE}:{QUEUE}"
MESSAGES = f"{WAITING}.msgs"
DELAYED = f"{WAITING}.DQ"
DELAYED_MESSAGES = f"{DELAYED}.msgs"
DEAD_LETTERS = f"{WAITING}.XQ"
DEAD_LETTER_MESSAGES = f"{WAITING}.XQ.msgs"
#: Of plain Dramatiq's processes. Ours have keys of their own: any producer whose clock is ahead takes those in here for
#: dead, and gives their messages back.
PLAIN_HEARTBEATS = f"{QUEUE_NAMESPACE}:__heartbeats__"

#: ZSET process → ms of its last sign of life (lua/clock.lua).
ALIVE = "mail:alive"
#: STRING: there was something to do in the last minutes, so that idle processes look after the others (lua/rest.lua).
AWAKE = "mail:awake"
#: HASH process → number: what a process asked before it raised it does nothing any more (lua/fetch.lua).
FENCES = "mail:fences"
#: HASH a message's id or a job's key → how often it killed a process that rehearsed it; and HASH process → what it
#: rehearses (lua/suspects.lua).
SUSPECTS = "mail:suspects"
REHEARSALS = "mail:rehearsals"
#: HASH: by how many ms the time in Redis is ahead of its clock (lua/clock.lua).
CLOCK = "mail:clock"

#: LIST of the ids that woke idle processes; the next fetch takes them, whoever's it is. One list for all, since Redis
#: may still serve a connection whose process is forgotten.
WOKEN = "mail:woken"
#: STRING: somebody has just sorted what waits.
SORTING = "mail:sorting"
#: ZSET id → time in ms at which a delayed message is due; Dramatiq has the time in the message alone.
DUE = "mail:due"
#: ZSET for each priority: lane → how many messages were taken from it, so that the least served comes next.
LANES = "mail:lanes"
LANE_PREFIX = "mail:lane:"
#: What stands among the waiting ids to wake an idle process for a job of BullMQ's; as lua/bullmq.lua has it.
WAKE = "-"

#: What lua/lanes.lua asks for.
QUEUE_KEYS = (
    WAITING,
    MESSAGES,
    DELAYED,
    DELAYED_MESSAGES,
    DEAD_LETTERS,
    DEAD_LETTER_MESSAGES,
    ALIVE,
    DUE,
    LANES,
    CONTROL,
    PRIORITIES,
)


def bullmq_own(bullmq: str) -> str:
    """What our keys about a BullMQ queue (`PREFIX:QUEUE`) begin with; see lua/bullmq.lua."""
    return f"mail:bullmq:{bullmq}"


def bullmq_parked(bullmq: str, campaign_id: str) -> str:
    """SET of ids of a paused campaign's jobs."""
    return f"{bullmq_own(bullmq)}:parked:{campaign_id}"


def bullmq_keys(bullmq: str) -> list[str]:
    """How a script is told of a BullMQ queue. Without one (empty) both are the same: a Redis user whose rights name
    keys may not pass an empty one."""
    return [bullmq or bullmq_own(""), bullmq_own(bullmq)]


def fetched(process: str) -> str:
    """SET of message ids that a process has fetched and not settled yet."""
    return f"mail:fetched:{process}"


def lane(campaign_id: str) -> str:
    """LIST of a campaign's waiting message ids; that of mails outside any campaign has an empty name."""
    return f"{LANE_PREFIX}{campaign_id}"


def ledger(campaign_id: str) -> str:
    """HASH subscriber → state; the states are described in lua/states.lua."""
    return f"mail:ledger:{campaign_id}"


def counts(campaign_id: str) -> str:
    """HASH result → number of mails."""
    return f"mail:counts:{campaign_id}"


def single(identity: str) -> str:
    """The ledger of one mail outside any campaign."""
    return f"mail:single:{identity}"


def account(name: str) -> str:
    """HASH: what a sending account's provider allows at present; see lua/claim.lua."""
    return f"mail:account:{name}"


def in_flight(name: str) -> str:
    """ZSET claimant → ms of its claim: an account's mails that are being sent now."""
    return f"mail:account:{name}:flight"


def window(name: str, milliseconds: int) -> str:
    """LIST of the times in ms of an account's last mails, as many as one window allows."""
    return f"mail:account:{name}:window:{milliseconds}"


def same_words(name: str, words: str) -> str:
    """HASH about one reply that different recipients of an account get; see lua/same_words.lua."""
    return f"mail:account:{name}:words:{words}"


def connections(name: str) -> str:
    """HASH process → its open connections to the account's server."""
    return f"mail:account:{name}:connections"


def wanting(name: str) -> str:
    """HASH: processes that wait for one of those connections; see lua/account.lua."""
    return f"mail:account:{name}:wanting"


def dead_letter_reason(redis_message_id: str) -> str:
    """STRING: why a message can't be worked on."""
    return f"{DEAD_LETTER_REASON_PREFIX}{redis_message_id}"
