"""Sends a web app's campaign mails from Redis and records them in Supabase."""

from importlib.metadata import version

__version__ = version("mail-worker")
