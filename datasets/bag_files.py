"""ROS 2 bags as they lie on disk: opened, proven not to be bombs, and read message by message in order of arrival."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from robot_value.convert import ConversionError
from robot_value.resampling import Received

MAGIC = b"\x89MCAP0\r\n"
LARGEST_CHUNK = 1 << 27  # bytes, decompressed; recorders write about 1 MB
LATEST = 1 << 63  # ns
LARGEST_METADATA = 1 << 20  # bytes of metadata.yaml
HEADER, CHUNK, FOOTER = 9, 0x06, 0x02  # bytes before a record's content; record types
NO_SUMMARY = struct.pack("<BQQQI", FOOTER, 20, 0, 0, 0) + MAGIC  # an end that sends readers through the whole file
PACKED = re.compile(rb"compression_mode:\s*[\"']?(file|message)", re.IGNORECASE)
STAMPED = "std_msgs/msg/Header"
REPAIR = "`ros2 bag reindex` or `mcap recover` may repair it"


def is_bag(path: Path) -> bool:
    """A bag's folder, or one of its files by itself."""
    try:
        if path.is_dir():
            return any(is_bag(file) for file in _storages(path))
        starts = {".mcap": MAGIC, ".db3": b"SQLite format 3\0"}
        return path.suffix in starts and _head(path, 16).startswith(starts[path.suffix])
    except OSError:
        return False


class Bag:
    """An opened bag. Everything that is wrong with it is a ConversionError naming the file."""

    def __init__(self, path: Path):
        from rosbags.highlevel import AnyReader

        self.path = path
        self.files = _storages(path) if path.is_dir() else [path]
        self.lost = 0  # bytes at the end of a file that was cut off
        if path.is_dir():
            _check_folder(path, self.files)
        opened: Any = path
        for file in self.files:
            if file.suffix == ".mcap" and (lost := file.stat().st_size - (end := _checked(file))):
                if file != path:
                    raise ConversionError(f"{file}: cut off at byte {end}; convert the file by itself, or {REPAIR}")
                opened, self.lost = Mended(path, end), lost
        try:
            self.reader = AnyReader([opened], default_typestore=_usual_types())
            self.reader.open()
        except Exception as error:  # decoders of untrusted bytes fail in many ways
            raise ConversionError(f"{path}: expected a bag that rosbags opens, got {error!r}; {REPAIR}") from error
        definitions = self.reader.typestore.fielddefs
        self._stamped = {name for name, (_, fields) in definitions.items() if fields and fields[0][1][1] == STAMPED}

    @property
    def topics(self) -> dict[str, tuple[str, int]]:
        """topic -> (type, messages)"""
        found = {name: (info.msgtype or "several types", info.msgcount) for name, info in self.reader.topics.items()}
        return dict(sorted(found.items()))

    @property
    def seconds(self) -> float:
        return self.reader.duration / 1e9

    def check(self, types: dict[str, str], needed: set[str]) -> None:
        """Raises unless topics have these types, whose definitions are known, and the needed ones are there."""
        found = self.topics
        if missing := sorted(needed - found.keys()):
            raise ConversionError(f"{self.path}: expected topic {missing[0]}, got only {', '.join(found)}")
        for topic, expected in types.items():
            if topic not in found:
                continue
            if (got := found[topic][0]) != expected:
                raise ConversionError(f"{self.path}: {topic}: expected {expected}, got {got}; correct the YAML's type")
            if expected not in self.reader.typestore.fielddefs:
                raise ConversionError(
                    f"{self.path}: {topic}: expected a definition of {expected} in the bag, got none; "
                    "record it again as MCAP, which stores the definitions"
                )

    def messages(self, topics: set[str], start: int | None = None, stop: int | None = None) -> Iterator:
        """(topic, Received) in order of arrival, received in [start, stop) ns."""
        chosen = [connection for connection in self.reader.connections if connection.topic in topics]
        if not chosen:  # rosbags takes none to mean all
            return
        last, topic = 0, ""
        try:
            for connection, time, raw in self.reader.messages(chosen, start, stop):
                topic = connection.topic
                if not last <= time < LATEST:
                    raise ConversionError(
                        f"{self.path}: {topic}: expected to be received at or after {last} ns, in order of arrival, "
                        f"got {time} ns; `ros2 bag convert` sorts"
                    )
                last, stamp = time, self._stamp(connection.msgtype, raw) or time
                yield topic, Received(time, stamp, partial(self.decode, connection, raw))
        except ConversionError:
            raise
        except Exception as error:
            after = f"after a message of {topic} at {last} ns" if topic else "at its first message"
            raise ConversionError(f"{self.path}: damaged {after}: {error!r}; {REPAIR}") from error

    def decode(self, connection: Any, raw: bytes) -> Any:
        try:
            return self.reader.deserialize(raw, connection.msgtype)
        except Exception as error:
            raise ConversionError(
                f"{self.path}: {connection.topic}: expected a {connection.msgtype} of {len(raw)} bytes, got {error!r}"
            ) from error

    def close(self) -> None:
        self.reader.close()

    def _stamp(self, kind: str, raw: bytes) -> int:
        """ns; a header comes first in its message, so that it is read without the rest. 0 where there is none."""
        if kind not in self._stamped or len(raw) < 12:
            return 0
        seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
        return seconds * 1_000_000_000 + nanoseconds


class Mended:
    """The path of an MCAP file that was cut off (its recorder died), as if it ended after its last whole record."""

    suffix = ".mcap"

    def __init__(self, path: Path, end: int):
        self.path, self.end = path, end

    def exists(self) -> bool:
        return self.path.exists()

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BufferedReader(_Ended(self.path.open(mode, buffering=0), self.end))

    def __str__(self) -> str:
        return str(self.path)


class _Ended(io.RawIOBase):
    """The first `end` bytes of a file, then NO_SUMMARY."""

    def __init__(self, file: Any, end: int):
        self.file, self.end, self.at = file, end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.end + len(NO_SUMMARY))[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        if self.at < self.end:
            self.file.seek(self.at)
            data = self.file.read(min(len(buffer), self.end - self.at))
        else:
            data = NO_SUMMARY[self.at - self.end :][: len(buffer)]
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


@cache
def _usual_types() -> Any:
    """Of a distribution of ROS, for old bags that hold no definitions."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _storages(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".mcap", ".db3") and path.is_file())


def _check_folder(folder: Path, files: list[Path]) -> None:
    """Before rosbags reads metadata.yaml: that it is there and small, and that no file lies elsewhere."""
    metadata = folder / "metadata.yaml"
    if not metadata.exists():
        raise ConversionError(
            f"{folder}: expected metadata.yaml, got none (was the recorder killed?); `ros2 bag reindex {folder}` "
            f"writes it, or convert its files one by one: {', '.join(file.name for file in files)}"
        )
    if metadata.stat().st_size > LARGEST_METADATA:
        raise ConversionError(f"{metadata}: expected at most {LARGEST_METADATA} bytes, got {metadata.stat().st_size}")
    for path in (metadata, *files):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ConversionError(f"{path}: expected a file of the bag, got a link that leaves it")
    if PACKED.search(metadata.read_bytes()):
        raise ConversionError(
            f"{folder}: expected a bag without file or message compression, whose size cannot be known before it is "
            "unpacked; `ros2 bag convert` writes one (MCAP's own chunk compression is welcome)"
        )


def _checked(path: Path) -> int:
    """Where the last whole record of an MCAP file ends. Raises for chunks that decompress to more than they say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ConversionError(f"{path}: expected an MCAP file, got one that does not begin like that")
        while (at := file.tell()) + HEADER <= size:
            kind, length = struct.unpack("<BQ", file.read(HEADER))
            end = at + HEADER + length
            if kind == FOOTER and end + len(MAGIC) == size:
                return size
            if end > size:
                break
            if kind == CHUNK:
                _check_chunk(f"{path}: chunk at byte {at}", file, length)
            file.seek(end)
        if size >= len(NO_SUMMARY) and file.seek(size - len(MAGIC)) and file.read() == MAGIC:
            raise ConversionError(f"{path}: damaged at byte {at}: expected a record, got none that fits; {REPAIR}")
        return at


def _check_chunk(where: str, file: BinaryIO, length: int) -> None:
    try:
        _, _, claimed, _, letters = struct.unpack("<QQQII", file.read(32))
        compression = file.read(letters if letters < 16 else 0).decode()
        (stored,) = struct.unpack("<Q", file.read(8))
        small = max(claimed, stored, length) <= LARGEST_CHUNK and stored == length - 40 - letters
        fits = small and (_size(compression, file.read(stored), claimed) if compression else stored) == claimed
    except Exception as error:
        raise ConversionError(f"{where}: damaged: {error!r}; {REPAIR}") from error
    if not fits:
        raise ConversionError(
            f"{where}: expected at most {LARGEST_CHUNK} bytes and exactly those it claims ({claimed}), got another "
            "number; no recorder writes that, do not use the file"
        )


def _size(compression: str, data: bytes, claimed: int) -> int:
    """Bytes that come out, never asking for many more than claimed; -1 where more would come."""
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor as Decompressor
    elif compression == "zstd":
        from backports.zstd import ZstdDecompressor as Decompressor
    else:
        raise ValueError(f"expected no, lz4 or zstd compression, got {compression!r}")
    decompressor = Decompressor()
    size = len(decompressor.decompress(data, claimed + 1))
    return size if decompressor.eof and not decompressor.unused_data else -1
