"""`mail-worker-release` on a host: switches releases, judges them, takes them back, drains. Uses no network of its own.

Runs with supervisor's own Python, whose XML-RPC transport it uses. Nothing here imports the worker, which may be
broken.
"""
