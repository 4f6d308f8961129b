"""What kind of file a name tells (RFC 2046, IANA's media types), the same on each host: Python's own list, without what
the host has besides, and what that lacks."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mimetypes

UNKNOWN_TYPE = "application/octet-stream"
_MORE = {
    ".7z": "application/x-7z-compressed",
    ".avif": "image/avif",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".gz": "application/gzip",
    ".heic": "image/heic",
    ".ics": "text/calendar",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".pkpass": "application/vnd.apple.pkpass",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rtf": "application/rtf",
    ".vcf": "text/vcard",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".yaml": "text/yaml",
    ".yml": "text/yaml",
}
#: Of what is packed once more, such as a .tar.gz.
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def media_type_of(filename: str) -> str:
    """By the name's end."""
    media_type, packed_by = _types().guess_type(filename)
    return (_PACKED.get(packed_by) if packed_by else media_type) or UNKNOWN_TYPE


def extension_of(media_type: str) -> str:
    """Such as `.pdf`; `.bin` if nobody knows."""
    return _types().guess_extension(media_type.partition(";")[0].strip().lower()) or ".bin"


@lru_cache(maxsize=1)
def _types() -> "mimetypes.MimeTypes":
    import mimetypes  # most processes never see a file

    types = mimetypes.MimeTypes()
    for extension, media_type in _MORE.items():
        types.add_type(media_type, extension)
    return types
