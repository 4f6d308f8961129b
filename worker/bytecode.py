"""Imports all that `mail-worker run` and `record` import in their lives, early or late.

Run once as `python -m worker.bytecode` with PYTHONPYCACHEPREFIX set, it leaves their bytecode there. A program that
finds none compiles what it imports, each time it starts, and the compiler's memory stays with it."""

# ruff: noqa: F401
# isort: off
import encodings.idna
import encodings.punycode
import importlib.readers
import importlib.resources.readers

import httpcore
import idna.uts46data

import worker.cli
import worker.commands
import worker.operating.healthy
import worker.base.logs
import worker.sending.process
import worker.recording.recorder
import worker.sending.transports.oauth
import worker.sending.transports.providers
import worker.sending.transports.smtp
