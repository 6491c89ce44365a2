"""One disk record: a header that says whose block this is, then the encoded block.

| bytes | field |
|---|---|
| 0-7 | magic `BatonKV` and a zero |
| 8-9 | version of this format |
| 10-11 | codec: 0 none, 1 int8 |
| 12-15 | group |
| 16-31 | KV digest of model and layout |
| 32-47 | block hash |
| 48-55 | bytes of the encoded block |
| 56-63 | xxh3-64 of the encoded block |
| 64-71 | xxh3-64 of bytes 0 to 63 |

Numbers are little-endian. A record that differs in any field is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import xxhash

from baton.transfer.codec import CodecName

MAGIC = b"BatonKV\0"
VERSION = 1
_FIELDS = struct.Struct("<8sHHI16s16sQQ")
_CHECK = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _CHECK.size
_CODECS: dict[CodecName, int] = {"none": 0, "int8": 1}


class BadRecordError(Exception):
    """The bytes are not the record that was wanted."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the records of one group of one worker share. `digest` is of 32 hex digits."""

    digest: str
    group: int
    codec: CodecName
    length: int

    def header(self, block_hash: bytes, checksum: int) -> bytes:
        fields = _FIELDS.pack(
            MAGIC,
            VERSION,
            _CODECS[self.codec],
            self.group,
            bytes.fromhex(self.digest),
            block_hash,
            self.length,
            checksum,
        )
        return fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))

    def checksum_in(self, header: bytes, block_hash: bytes) -> int:
        """The payload's checksum. Raises BadRecordError unless all else is as expected."""
        if len(header) != HEADER_BYTES:
            raise BadRecordError("the header is cut off")
        checksum: int = _FIELDS.unpack_from(header)[-1]
        if header != self.header(block_hash, checksum):
            raise BadRecordError("the header is damaged, or is another block's")
        return checksum
