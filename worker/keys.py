"""The names of all keys in Redis: this package's own, and Dramatiq's (described in its dispatch.lua)."""

QUEUE_NAMESPACE = "dramatiq"
QUEUE = "mail"
ACTOR = "send_mail"

OUTBOX = "mail:outbox"
PARKED_RESULTS = "mail:outbox:parked"
OPEN_CAMPAIGNS = "mail:campaigns"
PROCESSES = "mail:processes"

#: Dramatiq keeps dead letters for 7 days, and so their reasons are kept.
DEAD_LETTER_SECONDS = 7 * 86_400
DEAD_LETTER_REASON_PREFIX = "mail:dead:"

WAITING = f"{QUEUE_NAMESPACE}:{QUEUE}"
WAITING_MESSAGES = f"{WAITING}.msgs"
DELAYED_MESSAGES = f"{WAITING}.DQ.msgs"
DEAD_LETTERS = f"{WAITING}.XQ"
DEAD_LETTER_MESSAGES = f"{WAITING}.XQ.msgs"


def ledger(campaign_id: str) -> str:
    """HASH subscriber → state; the states are described in lua/claim.lua."""
    return f"mail:ledger:{campaign_id}"


def counts(campaign_id: str) -> str:
    """HASH result → number of mails."""
    return f"mail:counts:{campaign_id}"


def single(identity: str) -> str:
    """The ledger of one mail outside any campaign."""
    return f"mail:single:{identity}"


def dead_letter_reason(redis_message_id: str) -> str:
    """STRING: why a message can't be worked on."""
    return f"{DEAD_LETTER_REASON_PREFIX}{redis_message_id}"
