"""`mail-worker`, in which HTML with `deadly` in it kills its process when its text part is made, as a fault in the
parser of HTML, which is C, would."""

import os
import signal
import sys

from worker import cli
from worker.mail import message
from worker.mail.alike import text_of_campaign


def text_or_death(html: str, campaign_id: str | None) -> str:
    if "deadly" in html:
        os.kill(os.getpid(), signal.SIGKILL)
    return text_of_campaign(html, campaign_id)


vars(message)["text_of_campaign"] = text_or_death
sys.exit(cli.main())
