"""Whether the zip archive of a checkpoint can be mapped: what its directory says must be what lies in the file.

torch.save stores every record as it is, at a multiple of 64 bytes, and a mapped tensor is just those bytes. An archive
that another tool packed may hold them compressed, or anywhere; one that was damaged or forged may say one thing in its
directory and another before the record. Zip's own format: APPNOTE.TXT, 4.3.7 and 4.3.12.
"""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 64  # bytes, torch.save's own: no smaller shift of a record can go unseen
DESCRIPTOR = 24  # bytes that may stand between a record and the next
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
LOCAL_MAGIC, ENCRYPTED = b"PK\x03\x04", 1
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # before a record whose size follows it, or is too large for 32 bits


class ArchiveError(ValueError):
    """The archive contradicts itself; the message says where."""


@dataclass(frozen=True)
class Archive:
    """A sound archive: the size of each record in bytes, and whether all lie in it so that they can be mapped."""

    sizes: Mapping[str, int]
    mappable: bool

    @property
    def pickle(self) -> str | None:
        """The record that tells what the checkpoint holds, none where torch.save did not write the archive."""
        return next((name for name in self.sizes if name.endswith("/data.pkl")), None)

    @property
    def is_torchscript(self) -> bool:
        """Whether it is a program and its weights."""
        return any(name.endswith("/constants.pkl") for name in self.sizes)

    def size_of_storage(self, key: str) -> int | None:
        """Return the bytes of the record of a tensor's storage, None if there is none."""
        return self.sizes.get(f"{(self.pickle or '').removesuffix('/data.pkl')}/data/{key}")


def archive_at(path: Path) -> Archive:
    """Compare the directory of an archive with the archive.

    Where records cannot be mapped, they are read whole once, so that their checksums are compared too.

    Raises:
        ArchiveError: a record lies over another, or is not what the directory says.
        zipfile.BadZipFile, OSError, ValueError and others of zipfile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        mappable, end = True, 0
        names: set[str] = set()
        for record in records:
            if record.filename in names:
                raise ArchiveError(f"has two records {record.filename}")
            names.add(record.filename)
            if record.header_offset < end or (not end and record.header_offset):
                raise ArchiveError(f"has {record.filename} where another record lies")
            mappable &= record.header_offset - end <= DESCRIPTOR
            start = _start_of(record, file)
            end = start + record.compress_size
            if end > archive.start_dir:
                raise ArchiveError(f"has {record.filename} end behind where its directory starts")
            stored = record.compress_type == zipfile.ZIP_STORED
            if stored and record.compress_size != record.file_size:
                raise ArchiveError(f"has two sizes for {record.filename}")
            is_tensor = "/data/" in record.filename
            mappable &= stored and not (is_tensor and start % ALIGNMENT)
        mappable &= archive.start_dir - end <= DESCRIPTOR
        if not mappable and (damaged := archive.testzip()):
            raise ArchiveError(f"has another checksum than its record {damaged}")
        return Archive({record.filename: record.file_size for record in records}, mappable)


def content_of(path: Path, name: str) -> bytes:
    """Return the content of one record."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _start_of(record: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Return where the record's bytes start, once what stands before them agrees with the directory."""
    file.seek(record.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size:
        raise ArchiveError(f"ends before {record.filename}")
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL_HEADER.unpack(header)
    if magic != LOCAL_MAGIC:
        raise ArchiveError(f"has no record where {record.filename} should be")
    if (flags | record.flag_bits) & ENCRYPTED:
        raise ArchiveError(f"has {record.filename} encrypted")
    said = (record.compress_type, record.CRC, record.compress_size, record.file_size)
    agrees = method == said[0] and crc in (said[1], 0) and packed in (said[2], *UNKNOWN_SIZES)
    if not agrees or size not in (said[3], *UNKNOWN_SIZES):
        raise ArchiveError(f"says two things of {record.filename}")
    encoding = "utf-8" if flags & 0x800 else "cp437"
    if file.read(name_length).decode(encoding) != record.orig_filename:
        raise ArchiveError(f"has another name for {record.filename}")
    return int(record.header_offset + LOCAL_HEADER.size + name_length + extra_length)
