"""`mail-worker`, in which the mail with the subject `deadly` kills its process while it's built, as a fault in a parser
of C would."""

import os
import signal
import sys

from worker import cli
from worker.mail.jobs import Job
from worker.mail.message import Mail, build_mail
from worker.sending import checking, delivery


def build_or_die(job: Job, identity: str) -> Mail:
    if job.subject == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return build_mail(job, identity)


# Where mails are built.
vars(delivery)["build_mail"] = vars(checking)["build_mail"] = build_or_die
sys.exit(cli.main())
