"""What untrusted refuses, and that it refuses nothing else."""

import copy
import json
import os
import zipfile

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, ZipStore

from robot_value import untrusted
from robot_value.untrusted import Refused, caps, codecs, files

V2 = [numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.GZip(), numcodecs.Zlib(), numcodecs.LZ4(), numcodecs.BZ2(), None]
V3 = [zarr.codecs.BloscCodec(), zarr.codecs.ZstdCodec(checksum=True), zarr.codecs.GzipCodec(), None]


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(("version", "compressors"), [(2, V2), (3, V3)])
def test_every_usual_compressor_is_read_back_from_folders_and_zips(tmp_path, version, compressors, folder):
    # mutation: a wrong header offset in codecs.blosc or codecs.zstd; `expected` instead of `expected + 1`
    path, values = tmp_path / "a.zarr", np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    store = LocalStore(path) if folder else ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=version).create_group("data")
    for i, codec in enumerate(compressors):
        made = group.create_array(f"x{i}", shape=(25, 3), chunks=(10, 3), dtype="f4", compressors=codec)
        made[...] = values
    store.close()
    data = untrusted.open_zarr(path)["data"]
    for i in range(len(compressors)):
        np.testing.assert_array_equal(untrusted.rows(data[f"x{i}"], 3, 24), values[3:24])
    with pytest.raises(Refused, match="expected rows within"):
        untrusted.rows(data["x0"], 3, 26)


@given(st.integers(1, 1 << 20), st.booleans())
def test_a_zstd_header_tells_the_size_of_any_content(size, constant):
    # mutation: without the 256 of two-byte sizes (RFC 8878, 3.1.1.1.4)
    content = bytes(size) if constant else np.random.default_rng(size).bytes(min(size, 5000))
    packed = memoryview(numcodecs.Zstd().encode(content))
    assert codecs.zstd(packed, len(content)) == len(content)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (96, 96), (100, 133), (480, 640), (31, 777)])
def test_a_jpeg_xl_header_tells_the_pixels(height, width):
    # mutation: widths and heights swapped, ratio ignored
    imagecodecs = pytest.importorskip("imagecodecs")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    packed = memoryview(imagecodecs.jpegxl_encode(image, level=90))
    assert codecs.jpegxl(packed, image.nbytes) == image.nbytes
    assert codecs.jpegxl(packed, image.nbytes + 1) == height * width


def test_a_chunk_of_another_size_than_declared_is_refused():
    # mutation: `claimed > expected` instead of `!=`
    packed = np.frombuffer(numcodecs.Blosc().encode(bytes(400)), np.uint8)
    codecs.check_chunk("x", packed, ("blosc",), 400)
    for expected in (399, 401):
        with pytest.raises(Refused, match=f"decodes to {expected} bytes, got one of 400"):
            codecs.check_chunk("x", packed, ("blosc",), expected)


def test_little_may_be_claimed_freely_and_much_only_for_stored_bytes():
    # mutation: `min` instead of `max` in check_size
    untrusted.check_array("x", (caps.FREE,), "u1", stored=0)
    untrusted.check_array("x", (4 * caps.FREE,), "u1", stored=caps.FREE)
    with pytest.raises(Refused, match=r"decoded bytes per stored byte.*ROBOT_VALUE_CAPS=10"):
        untrusted.check_array("x", (caps.FREE + 1,), "u1", stored=0)
    with pytest.raises(Refused, match="at once"):
        untrusted.at_once("x", caps.LARGEST + 1)


@pytest.mark.parametrize("dtype", ["O", "V8", [("a", "O")], "nonsense", "<U999999999"])
def test_objects_records_and_absurd_texts_are_no_dtypes(dtype):
    # mutation: "O" among KINDS
    with pytest.raises(Refused):
        untrusted.check_array("x", (1,), dtype, stored=1 << 40)


@pytest.mark.parametrize("shape", [(-1,), (1.5,), ("2",), (True,), (1,) * 9])
def test_shapes_are_a_few_lengths(shape):
    # mutation: no check for bool, no check for negative lengths
    with pytest.raises(Refused, match="expected a shape"):
        untrusted.check_array("x", shape, "f4", stored=9)


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a/../../b", "a\\b", "C:/x", "a\0", "", "./a", "a//b"])
def test_names_stay_inside(tmp_path, name):
    # mutation: only startswith("..") is refused
    with pytest.raises(Refused):
        untrusted.inside(tmp_path, name)


def test_symlinks_may_stay_but_not_leave(tmp_path):
    # mutation: os.path.abspath instead of realpath
    root = tmp_path / "root"
    root.mkdir()
    (root / "real").write_text("x")
    (tmp_path / "secret").write_text("x")
    (root / "stays").symlink_to("real")
    (root / "leaves").symlink_to(tmp_path / "secret")
    assert untrusted.inside(root, "stays").read_text() == "x"
    with pytest.raises(Refused, match="leaves it"):
        untrusted.inside(root, "leaves")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@given(JSON)
def test_any_plain_json_comes_back(value):
    # mutation: NESTING = 1, or duplicates told by sorted keys
    assert untrusted.parse_json(json.dumps(value).encode(), "x") == value


@pytest.mark.parametrize(
    "content", [b'{"a": 1, "a": 1}', b"[" * 65 + b"]" * 65, b"[" * 99_999, b"\xff", b"", b"9" * 9999]
)
def test_odd_json_is_refused_with_the_file_named(tmp_path, content):
    # mutation: without object_pairs_hook; NESTING = 66
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(Refused, match=r"odd\.json"):
        untrusted.read_json(tmp_path / "odd.json")


def test_large_json_and_pipes_are_not_even_read(tmp_path):
    # mutation: the size is checked after reading
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "large"):
        with pytest.raises(Refused):
            untrusted.read_json(tmp_path / name)


@pytest.mark.parametrize(
    "value", [None, [], {}, {"format_version": 2}, {"format_version": True}, {"format_version": "1"}]
)
def test_only_the_version_that_was_written_is_read(value):
    # mutation: == without the type (True == 1)
    with pytest.raises(ValueError, match="x: an alarm: expected format_version 1"):
        untrusted.check_version(value, 1, "x: an alarm")
    assert untrusted.check_version({"format_version": 1, "a": 2}, 1, "x") == {"a": 2}


def test_overlapping_zip_members_are_refused(tmp_path):
    # mutation: `stored > ...` without the sum
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", bytes(5000))
        for i in range(9):
            twin = copy.copy(archive.getinfo("a"))
            twin.filename = f"b{i}"
            archive.filelist.append(twin)
    with pytest.raises(Refused, match="overlapping"):
        untrusted.zip_names(path)


def test_a_folder_is_listed_as_it_is(tmp_path):
    # mutation: folders followed by symlink
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"1")
    assert files.list_files(tmp_path) == {"a/b/c": 3, "d": 1}
