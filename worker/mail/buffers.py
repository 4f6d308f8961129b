"""Bytes in JSON: Node's Buffer as JSON.stringify writes it, base64, data URLs (RFC 2397)."""

import base64
import binascii
import contextlib
import re
from typing import Any, TypeGuard
from urllib.parse import unquote_to_bytes

from worker.errors import InvalidJob
from worker.mail.fields import kind, shorten

_DATA_URL = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),(?P<data>.*)", re.DOTALL | re.IGNORECASE)

_BEGINS_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[^,;\s]*)*,", re.ASCII | re.IGNORECASE)
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


def is_data_url(text: str) -> bool:
    """Whether it begins as a `data:` URL with a media type. A text that does so by chance is hardly a file."""
    return _BEGINS_DATA_URL.match(text) is not None


def read_content(value: object, encoding: str, name: str, *, may_be_base64: bool = False) -> bytes:
    """The bytes of a file or text, as nodemailer has them: a Buffer, or a string in one of Node's encodings.

    Args:
        encoding: that of the string; empty if the app doesn't say.
        may_be_base64: whether a string whose encoding isn't known is read as base64 where it can be.

    Raises:
        InvalidJob: it's neither, or not in this encoding.
    """
    if is_buffer(value):
        return read_buffer(value, name)
    if not isinstance(value, str):
        raise InvalidJob(f"{name} is {kind(value)}, but must be a string or a Buffer")
    match encoding.lower().replace("-", ""):
        case "base64" | "base64url":
            return read_base64(value, name)
        case "hex":
            try:
                return bytes.fromhex(value)
            except ValueError:
                raise InvalidJob(f"{name} isn't hexadecimal") from None
        case "binary" | "latin1":
            return value.encode("latin-1", "replace")
        case "ascii" | "utf8":
            return value.encode("utf-8", "replace")
        case "utf16le" | "ucs2":
            return value.encode("utf-16-le", "replace")
        case "":
            if may_be_base64:
                with contextlib.suppress(InvalidJob):
                    return read_base64(value, name)
            return value.encode("utf-8", "replace")
        case _:
            raise InvalidJob(f"{name} has an encoding that nobody knows: {shorten(encoding)}")
