"""From a job in hand to a recorded result, by one transport and account."""
