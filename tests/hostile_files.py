"""Files that lie, bomb, escape or execute: sound ones of every kind (benchmarks/fuzz_seeds.py) with one thing wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import fuzz_seeds
from fuzz_mutations import Canary, reseal

from robot_value.episodes.manifest import MANIFEST, canonical, sha256

MANY = 100_000
DEEP = b'{"a":' * MANY + b"1" + b"}" * MANY
JSONS = {"calibration.json": "calibration", "alarm.json": "alarm", "spec.json": "spec"}
BUFFERS = {"buffer.zarr": "convert diffusion_policy", "umi.zarr.zip": "convert umi"}
ACTION = {"buffer.zarr": "data/action/.zarray", "umi.zarr.zip": "data/robot0_eef_pos/.zarray"}

# What one array's metadata may claim: name -> change
LIES_V2: dict[str, dict] = {
    "4 TB": {"shape": [10**12, 1], "chunks": [4, 1]},
    "4 TB chunk": {"shape": [10**12, 1], "chunks": [10**12, 1]},
    "negative shape": {"shape": [-12, 2]},
    "fractional shape": {"shape": [12.5, 2]},
    "text as shape": {"shape": "12"},
    "nine dimensions": {"shape": [1] * 99, "chunks": [1] * 99},
    "no chunks": {"chunks": [0, 0]},
    "objects": {"dtype": "|O"},
    "records": {"dtype": [["a", "<f4"], ["b", "|O"]]},
    "long texts": {"dtype": "<U999999999"},
    "no dtype": {"dtype": "os.system"},
    "pickle codec": {"compressor": {"id": "pickle"}},
    "pickle filter": {"dtype": "|O", "filters": [{"id": "pickle"}]},
    "json filter": {"filters": [{"id": "json2"}]},
    "unknown codec": {"compressor": {"id": "evil"}},
    "codec without name": {"compressor": {}},
    "format 9": {"zarr_format": 9},
}
LIES_V3: dict[str, dict] = {
    "4 TB": {"shape": [10**12]},
    "4 TB chunk": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**12]}}},
    "zero chunk": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0]}}},
    "odd grid": {"chunk_grid": {"name": "rectilinear", "configuration": {}}},
    "negative shape": {"shape": [-7]},
    "objects": {"data_type": "object"},
    "extension dtype": {"data_type": {"name": "numpy.void", "configuration": {"length_bytes": 10**12}}},
    "pickle codec": {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
    "unknown codec": {"codecs": [{"name": "bytes"}, {"name": "evil"}]},
    "no codecs": {"codecs": []},
    "two compressors": {"codecs": [{"name": "bytes"}, *[{"name": "gzip", "configuration": {"level": 1}}] * 2]},
    "wrong dtype": {"data_type": "float64"},
    "big attributes": {"attributes": {"a": "x" * (2 << 20)}},
    "many attributes": {"attributes": dict.fromkeys(map(str, range(MANY)), 0)},
    "no node": {"node_type": "symlink"},
    "format 9": {"zarr_format": 9},
}
NAMES = ("../x", "/etc/passwd", "a/../../x", "..", "a//b", "./a", "a\\..\\..\\x", "a\0b")
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "deep": DEEP,
    "deep list": b"[" * MANY,
    "twice the same key": b'{"format_version": 1, "format_version": 1}',
    "null": b"null",
    "list": b"[1]",
    "long number": b'{"format_version": 1, "mean": ' + b"9" * MANY + b"}",
    "too big": b'{"a": "' + b"x" * (17 << 20) + b'"}',
    "not UTF-8": b'{"a": "\xff"}',
    "many keys": json.dumps(dict.fromkeys(map(str, range(MANY)), 1)).encode(),
}
YAMLS: dict[str, bytes] = {
    "code": b"rate: !!python/object/apply:os.system ['touch CANARY']",
    "laughs": b"a: &a [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n".encode() for i in range(12)),
    "deep": b"[" * 20_000,
}


@dataclass(frozen=True)
class Hostile:
    name: str
    kind: str  # of fuzz_seeds
    loader: str
    spoil: Callable[[Path, Path], object]  # (the sound file or folder, a canary that must never appear)


def corpus() -> Iterator[Hostile]:
    for name, lie in LIES_V3.items():
        for loader in ("store", "cache"):
            yield Hostile(f"{loader}: {name}", "store", loader, _store_lie(lie))
    for kind, loader in BUFFERS.items():
        for name, lie in LIES_V2.items():
            yield Hostile(f"{kind}: {name}", kind, loader, _buffer_lie(ACTION[kind], lie))
    for kind, loader in JSONS.items():
        for name, content in CONTENTS.items():
            yield Hostile(f"{kind}: {name}", kind, loader, lambda path, _, content=content: path.write_bytes(content))
        yield Hostile(f"{kind}: a pipe", kind, loader, lambda path, _: (path.unlink(), os.mkfifo(path)))
    for name in NAMES:
        yield Hostile(f"store: manifest names {name!r}", "store", "store", _manifest_name(name))
        yield Hostile(f"checkpoint: manifest names {name!r}", "checkpoint", "checkpoint", _checkpoint_name(name))
        yield Hostile(f"zip: member {name!r}", "umi.zarr.zip", "convert umi", _member(name))
    for name, content in YAMLS.items():
        yield Hostile(
            f"topics: {name}", "topics.yaml", "topics", lambda path, _, content=content: path.write_bytes(content)
        )
    for name, bomb in chunk_bombs().items():
        yield Hostile(f"chunk bomb: {name}", "buffer.zarr", "convert diffusion_policy", _chunk_bomb(*bomb))
    yield from _pickles()
    yield from _single()


def chunk_bombs() -> dict[str, tuple[dict, bytes]]:
    """Codec -> (its v2 metadata, a chunk that says it is small or says nothing, and decodes to GBs)."""
    rle = (1 << 17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"  # a block of 128 KB in 4 bytes
    zstd = (0xFD2FB528).to_bytes(4, "little") + bytes([0, 0x58])  # no content size, 2 MB window
    blosc = struct.pack("<BBBBIII", 2, 1, 1, 4, (1 << 31) - 17, 1 << 20, 40) + bytes(24)
    return {
        "zstd": ({"id": "zstd", "level": 1}, zstd + rle * (1 << 15) + b"\1\0\0"),
        "zstd header": (
            {"id": "zstd", "level": 1},
            (0xFD2FB528).to_bytes(4, "little") + b"\xe0" + b"\0" * 4 + b"\1\0\0\0",
        ),
        "gzip": ({"id": "gzip", "level": 1}, deflated(31)),
        "blosc": ({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0, "blocksize": 0}, blosc),
        "lz4": ({"id": "lz4", "acceleration": 1}, struct.pack("<I", (1 << 31) - 1) + bytes(40)),
        "zlib": ({"id": "zlib", "level": 1}, deflated(15)),
    }


def deflated(wbits: int) -> bytes:
    """1.5 GB of zeros in 1.5 MB; made of one block, so that it costs nothing to make."""
    stream, zeros = zlib.compressobj(9, wbits=wbits), bytes(1 << 20)
    first, again = (stream.compress(zeros) + stream.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 1500 + stream.flush()


def _episode(path: Path) -> Path:
    return sorted((path / "episodes").glob("0*"))[0]


def _edit(file: Path, change: dict) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def _store_lie(change: dict) -> Callable[[Path, Path], object]:
    return lambda path, _: (_edit(_episode(path) / "rewards/zarr.json", change), reseal(path))


def _rezip(path: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _buffer_lie(array: str, change: dict) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        if path.is_dir():
            return _edit(path / array, change)
        return _rezip(path, lambda files: files.update({array: json.dumps(json.loads(files[array]) | change).encode()}))

    return spoil


def _chunk_bomb(codec: dict, chunk: bytes) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        _edit(path / "data/action/.zarray", {"compressor": codec})
        (path / "data/action/0.0").write_bytes(chunk)

    return spoil


def _manifest_name(name: str) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        folder = _episode(path)
        data = json.loads((folder / MANIFEST).read_text())
        data["files"][name] = {"size": 1, "sha256": sha256(b"x")}
        del data["hash"]
        (folder / MANIFEST).write_bytes(canonical(data | {"hash": sha256(canonical(data))}))

    return spoil


def _checkpoint_name(name: str) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        data = json.loads((path / MANIFEST).read_text())
        data["files"][name] = data["files"].pop("model.safetensors")
        (path / MANIFEST).write_text(json.dumps(data, indent=1) + "\n")

    return spoil


def _member(name: str) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            archive.writestr(info, b"x")

    return spoil


def _pickles() -> Iterator[Hostile]:
    """A pickle in the place of every file that a loader reads first."""
    for kind, (_, loaders) in fuzz_seeds.seeds().items():
        yield Hostile(f"{kind}: pickles", kind, loaders[0], _pickle_all)
    for dtype in ("object", "huge"):
        yield Hostile(f"cache: {dtype} npy", "cached", "cache", _npy(dtype))


def _pickle_all(path: Path, canary: Path) -> None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        file.write_bytes(pickle.dumps(Canary(canary)))


def _npy(dtype: str) -> Callable[[Path, Path], object]:
    """In a cache whose sizes are right."""

    def spoil(path: Path, canary: Path) -> None:
        about = next(path.glob(".cache/*/cache.json"))
        file = about.parent / "steps.npy"
        if dtype == "object":
            np.save(file, np.array([Canary(canary)], object), allow_pickle=True)
        else:
            header = io.BytesIO()
            shape = {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(header, shape)
            file.write_bytes(header.getvalue() + bytes(64))
        data = json.loads(about.read_text())
        data["sizes"]["steps.npy"] = file.stat().st_size
        about.write_text(json.dumps(data))

    return spoil


def _single() -> Iterator[Hostile]:
    """Attacks that only one kind of file knows."""
    yield Hostile("store: a symlink that leaves", "store", "store", _symlink)
    yield Hostile("store: a manifest of 10^5 files", "store", "store", _many_files)
    yield Hostile("buffer: a symlink that leaves", "buffer.zarr", "convert diffusion_policy", _buffer_symlink)
    yield Hostile("buffer: a chunk that is a pipe", "buffer.zarr", "convert diffusion_policy", _buffer_pipe)
    yield Hostile("buffer: a missing chunk", "buffer.zarr", "convert diffusion_policy", _missing_chunk)
    yield Hostile("zip: 10^5 arrays", "umi.zarr.zip", "convert umi", _many_arrays)
    yield Hostile("zip: a bomb", "umi.zarr.zip", "convert umi", _zip_bomb)
    yield Hostile("zip: a link", "umi.zarr.zip", "convert umi", _zip_link)
    yield Hostile("checkpoint: 10^5 tensors", "checkpoint", "checkpoint", _safetensors(MANY))
    yield Hostile("checkpoint: a header of 2^60 bytes", "checkpoint", "checkpoint", _safetensors(0))
    yield Hostile("checkpoint: deep JSON", "checkpoint", "checkpoint", _deep_config)
    yield Hostile("robomimic: 4 TB", "robomimic.hdf5", "convert robomimic", _hdf5("4 TB"))
    yield Hostile("robomimic: an external link", "robomimic.hdf5", "convert robomimic", _hdf5("link"))
    yield Hostile("robomimic: a deflated bomb", "robomimic.hdf5", "convert robomimic", _hdf5("bomb"))
    for template in ("../../../{episode_chunk}", "/etc/{chunk_index}", "{0.__class__}", "{chunk_index:>999999999}"):
        change = {"data_path": template}
        yield Hostile(f"lerobot: {template}", "lerobot", "convert lerobot", _info(change))
    for key in ("total_episodes", "total_frames", "fps"):
        yield Hostile(f"lerobot: {key} 10^12", "lerobot", "convert lerobot", _info({key: 10**12}))


def _symlink(path: Path, _: Path) -> None:
    chunk = next(file for file in (_episode(path) / "rewards").rglob("c/*") if file.is_file())
    outside = path.parent / "outside"
    shutil.move(chunk, outside)
    chunk.symlink_to(outside)


def _many_files(path: Path, _: Path) -> None:
    folder = _episode(path)
    data = json.loads((folder / MANIFEST).read_text())
    data["files"] |= {f"k{i}/zarr.json": {"size": 1, "sha256": "0" * 64} for i in range(MANY)}
    del data["hash"]
    (folder / MANIFEST).write_bytes(canonical(data | {"hash": sha256(canonical(data))}))


def _buffer_symlink(path: Path, _: Path) -> None:
    shutil.move(path / "data/action/0.0", path.parent / "outside")
    (path / "data/action/0.0").symlink_to(path.parent / "outside")


def _buffer_pipe(path: Path, _: Path) -> None:
    (path / "data/action/0.0").unlink()
    os.mkfifo(path / "data/action/0.0")


def _missing_chunk(path: Path, _: Path) -> None:
    (path / "data/action/0.0").unlink()


def _many_arrays(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(MANY):
            archive.writestr(f"data/k{i}/.zarray", b"{}")


def _zip_bomb(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/bomb", bytes(1 << 20))
        archive.getinfo("data/bomb").file_size = 1 << 40


def _zip_link(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("data/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")


def _safetensors(count: int) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({f"t{i}": empty for i in range(count)}).encode()
        length = len(header) if count else 1 << 60
        (path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header)
        reseal(path)

    return spoil


def _deep_config(path: Path, _: Path) -> None:
    (path / "config.json").write_bytes(DEEP)
    reseal(path)


def _hdf5(how: str) -> Callable[[Path, Path], object]:
    def spoil(path: Path, _: Path) -> None:
        import h5py

        with h5py.File(path, "a") as file:
            demo = file["data/demo_0"]
            del demo["actions"]
            if how == "4 TB":
                demo.create_dataset("actions", shape=(10**11, 7), dtype="f8", chunks=(3, 7), compression="gzip")
            elif how == "link":
                demo["actions"] = h5py.ExternalLink("/etc/passwd", "/actions")
            else:
                made = demo.create_dataset("actions", shape=(6, 7), dtype="f8", chunks=(3, 7), compression="gzip")
                for row in (0, 3):
                    made.id.write_direct_chunk((row, 0), deflated(15))

    return spoil


def _info(change: dict) -> Callable[[Path, Path], object]:
    return lambda path, _: _edit(path / "meta/info.json", change)
