"""What a compressed chunk claims to decode to, told from its bytes without decoding it (or with a bound on it)."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .caps import FREE, Refused

ZSTD_MAGIC, ZSTD_BLOCK = 0xFD2FB528, 1 << 17
CHECKSUM = 4  # bytes of crc32c
JPEGXL_HEAD = 1 << 16  # bytes of metadata that an image may have beyond its own size
RATIOS = ((1, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width / height; 0: width is told
SAMPLE_BYTES = 16  # per pixel: four float32


def check_chunk(what: str, content: np.ndarray, codecs: tuple[str, ...], expected: int) -> None:
    """Refuse a chunk (uint8[n]) that would decode to another size than `expected` bytes."""
    data = memoryview(np.ascontiguousarray(content).view(np.uint8))
    for codec in reversed(codecs):
        if codec == "crc32c":
            data = data[: max(0, len(data) - CHECKSUM)]
        elif codec in CHECKS:
            try:
                claimed = CHECKS[codec](data, expected)
            except (ValueError, IndexError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                raise Refused(f"{what}: expected a chunk compressed with {codec}, got {error}") from None
            break
    else:
        claimed = len(data)
    if claimed != expected:
        raise Refused(f"{what}: expected a chunk that decodes to {expected} bytes, got one of {claimed}")


def blosc(data: memoryview, expected: int) -> int:
    """Header: version, format, flags, typesize, nbytes, blocksize, cbytes (little-endian uint32)."""
    nbytes, blocksize, cbytes = np.frombuffer(data[4:16], "<u4").tolist()
    if cbytes != len(data) or blocksize > max(nbytes, 1):
        raise ValueError(f"a header of {cbytes} bytes for {len(data)}")
    return nbytes


def lz4(data: memoryview, expected: int) -> int:
    """numcodecs puts the size in front."""
    return int.from_bytes(data[:4], "little")


def zstd(data: memoryview, expected: int) -> int:
    """The frame header's content size (RFC 8878); where the writer streamed, what its blocks can hold at most."""
    if int.from_bytes(data[:4], "little") != ZSTD_MAGIC:
        raise ValueError("no zstd frame")
    flags = data[4]
    single, dictionary, size_flag = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3], flags >> 6
    at = 5 + (not single) + dictionary
    length = (single, 2, 4, 8)[size_flag]
    if length:
        return int.from_bytes(data[at : at + length], "little") + (256 if length == 2 else 0)
    bound = _zstd_blocks(data, at)
    if not expected <= bound <= max(FREE, 4 * expected):
        raise ValueError(f"blocks of up to {bound} bytes")
    return expected


def _zstd_blocks(data: memoryview, at: int) -> int:
    bound, last = 0, False
    while not last:
        if at + 3 > len(data):
            raise ValueError("a frame that ends early")
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        bound += ZSTD_BLOCK if kind == 2 else size
        at += 3 + (1 if kind == 1 else size)
    return bound


def jpegxl(data: memoryview, expected: int) -> int:
    """SizeHeader of the codestream (ISO/IEC 18181-1); channels and bytes per sample are left to the array."""
    start = data.tobytes().find(b"\xff\x0a")  # behind the boxes of a container, if there is one
    if start < 0 or len(data) > expected + JPEGXL_HEAD:
        raise ValueError(f"no JPEG XL image that {len(data)} bytes are needed for")
    bits, at = int.from_bytes(data[start + 2 : start + 14], "little"), 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return bits >> (at - n) & ((1 << n) - 1)

    small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = length(), take(3)
    above, below = RATIOS[ratio]
    pixels = height * (height * above // below if ratio else length())
    return expected if expected % pixels == 0 and expected // pixels <= SAMPLE_BYTES else pixels


def _bounded(start: Callable[[], Any]) -> Callable[[memoryview, int], int]:
    """For formats that do not say their size: decoded to the first byte too many, and no further."""

    def count(data: memoryview, expected: int) -> int:
        decoder = start()
        size = len(decoder.decompress(data, expected + 1))
        if not decoder.eof and size <= expected:
            raise ValueError(f"a stream that ends after {size} bytes")
        return size

    return count


# codec -> decoded bytes that its data claim
CHECKS: dict[str, Callable[[memoryview, int], int]] = {
    "blosc": blosc,
    "imagecodecs_jpegxl": jpegxl,
    "lz4": lz4,
    "zstd": zstd,
    "zlib": _bounded(zlib.decompressobj),
    "gzip": _bounded(lambda: zlib.decompressobj(wbits=31)),
    "bz2": _bounded(bz2.BZ2Decompressor),
    "lzma": _bounded(lambda: lzma.LZMADecompressor(memlimit=1 << 28)),
}
