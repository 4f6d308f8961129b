"""What a mail is: jobs, the message that leaves, what a reply means, when to try again. Pure: it asks nobody."""
