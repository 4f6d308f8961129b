"""What the role preflight's modules share. Runs on hosts: the standard library alone."""
