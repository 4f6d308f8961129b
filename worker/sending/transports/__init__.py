"""The ways a mail can leave."""
