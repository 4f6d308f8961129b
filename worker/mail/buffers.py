"""Bytes in JSON: Node's Buffer as JSON.stringify writes it, base64, data URLs (RFC 2397)."""

import base64
import binascii
import re
from typing import Any, TypeGuard
from urllib.parse import unquote_to_bytes

from worker.errors import InvalidJob

_DATA_URL = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),(?P<data>.*)", re.DOTALL | re.IGNORECASE)

_CHARSET = re.compile(r";\s*(charset=[\w.-]+)", re.IGNORECASE)


def is_buffer(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether it's `{"type": "Buffer", "data": […]}`."""
    return isinstance(value, dict) and value.get("type") == "Buffer" and "data" in value


def read_buffer(value: dict[Any, Any], name: str) -> bytes:
    """A Buffer's bytes.

    Raises:
        InvalidJob: its data are no bytes.
    """
    data = value["data"]
    if isinstance(data, str):
        return read_base64(data, name)
    try:
        return bytes(data if isinstance(data, list) and not any(isinstance(byte, bool) for byte in data) else [-1])
    except (TypeError, ValueError):
        raise InvalidJob(f"{name} is a Buffer, but its data aren't a list of bytes") from None


def read_base64(text: str, name: str) -> bytes:
    """The bytes of base64 in either alphabet (RFC 4648), with line breaks and padding or without.

    Raises:
        InvalidJob: it isn't base64.
    """
    plain = "".join(text.split()).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidJob(f"{name} isn't base64") from None


def read_data_url(url: str, name: str) -> tuple[str, bytes] | None:
    """Media type and bytes of a `data:` URL; None if it isn't one.

    Raises:
        InvalidJob: it is one, but a wrong one.
    """
    found = _DATA_URL.fullmatch(url)
    if found is None:
        return None
    charset = _CHARSET.search(found["parameters"])
    media_type = found["type"].strip()
    if media_type and charset:
        media_type += f"; {charset[1]}"
    data = unquote_to_bytes(found["data"])
    if found["parameters"].lower().endswith(";base64"):
        data = read_base64(data.decode("ascii", "replace"), name)
    return media_type, data
