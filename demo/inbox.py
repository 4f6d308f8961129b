"""`make demo-inbox`: the mails that the demo's SMTP server accepted last."""

from email import message_from_bytes, policy

from demo.run import NAME, console
from testbed.services import Services

SHOWN = 10


def show_inbox() -> int:
    """Lists the last mails and shows the newest one's text."""
    services = Services.load(NAME)
    mails = services.accepted()
    for mail in mails[-SHOWN:]:
        console.print(f"{mail['file']}  {mail['rcpt']}  {mail['subject'][:60]}", markup=False)
    if not mails:
        console.print("No mail was accepted yet.")
        return 0
    path = services.mail_directory / mails[-1]["file"]
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    console.print(f"\nThe newest one, {path}:\n", markup=False)
    for name in ("From", "To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post"):
        if name in message:
            console.print(f"{name}: {message[name]}", markup=False)
    text = message.get_body(("plain",))
    if text is not None:
        console.print(f"\n{text.get_content()[:400]} …", markup=False)
    return 0
