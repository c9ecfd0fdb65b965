"""Arrays over HTTP: headers and bytes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from mper.engine.arrays import array_response
from mper.engine.errors import RequestError
from mper.engine.schemas.arrays import DTYPES, parse_header
from mper.engine.services.scans import ScanStore
from mper.engine.services.uploads import Upload
from mper.engine.settings import Limits
from mper.volume import Geometry, Volume

AFFINE = [[0, 0, -0.7, 3], [0, 0.7, 0, 2], [2.5, 0, 0, 1], [0, 0, 0, 1]]


def sent(array: np.ndarray, **more: object) -> tuple[dict[str, object], bytes]:
    """Header and body of an answer."""

    async def gather() -> tuple[dict[str, object], bytes]:
        answer = array_response(array, **more)
        pieces = [bytes(piece) async for piece in answer.body_iterator]
        assert answer.headers["content-length"] == str(sum(map(len, pieces)))
        return json.loads(answer.headers["mper-array"]), b"".join(pieces)

    return asyncio.run(gather())


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_arrives_as_it_was_sent(dtype: str, tmp_path) -> None:
    array = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)
    entry, body = sent(array, geometry=Geometry(np.array(AFFINE), (3, 4, 5)), start=(1, 2, 3))
    header = parse_header(json.dumps(entry))
    (tmp_path / "a").write_bytes(body)
    back = header.open(tmp_path / "a")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert header.start == (1, 2, 3)
    assert header.geometry is not None and np.array_equal(header.geometry.affine, AFFINE)


def test_views_and_big_endian_arrays_are_sent_plain() -> None:
    array = np.arange(4 * 5 * 6, dtype=">i2").reshape(4, 5, 6)
    for view in (array, array[1:, ::2, 1:4], array.transpose(2, 0, 1), array[::-1]):
        entry, body = sent(view)
        assert entry["dtype"] == "int16"
        assert np.array_equal(np.frombuffer(body, "<i2").reshape(entry["shape"]), view)


def test_an_array_of_many_pieces_arrives_whole() -> None:
    array = np.random.default_rng(0).integers(0, 255, (40, 256, 256)).astype(np.uint8)
    assert sent(array)[1] == array.tobytes()


def test_what_is_written_to_an_upload_never_reaches_its_file(tmp_path) -> None:
    (tmp_path / "a").write_bytes(bytes(8))
    parse_header('{"shape": [2, 2, 2], "dtype": "uint8"}').open(tmp_path / "a")[:] = 7
    assert (tmp_path / "a").read_bytes() == bytes(8)


def test_unknown_spacing_stays_unknown() -> None:
    for affine in (None, AFFINE):
        header = parse_header(
            json.dumps({"shape": [2, 2, 2], "dtype": "uint8", "affine": affine, "spacing_known": False})
        )
        assert header.geometry is not None and header.geometry.spacing_mm is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "missing"),
        ("", "malformed"),
        ("[]", "malformed"),
        ("{}", "'shape' is missing"),
        ("[" * 3000, "malformed"),
        (" " * 5000, "5000 characters"),
        ('{"shape": [2, 2], "dtype": "uint8"}', "three whole numbers"),
        ('{"shape": [2, 2, 2.5], "dtype": "uint8"}', "three whole numbers"),
        ('{"shape": [2, 2, true], "dtype": "uint8"}', "three whole numbers"),
        ('{"shape": [2, 2, 0], "dtype": "uint8"}', "three whole numbers"),
        ('{"shape": [2, 2, -1], "dtype": "uint8"}', "three whole numbers"),
        ('{"shape": [2, 2, 4000000000], "dtype": "uint8"}', "three whole numbers"),
        ('{"shape": [2, 2, 2], "dtype": "object"}', "known are"),
        ('{"shape": [2, 2, 2], "dtype": "|O"}', "known are"),
        ('{"shape": [2, 2, 2], "dtype": ["uint8"]}', "known are"),
        ('{"shape": [2, 2, 2], "dtype": "uint8", "affine": [[1, 2], [3, 4]]}', "4x4"),
        ('{"shape": [2, 2, 2], "dtype": "uint8", "affine": "x"}', "malformed"),
        (
            '{"shape": [2, 2, 2], "dtype": "uint8",'
            ' "affine": [[NaN, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}',
            "finite",
        ),
        ('{"shape": [2, 2, 2], "dtype": "uint8", "spacing_known": "no"}', "true or false"),
        ('{"shape": [2, 2, 2], "dtype": "uint8", "start": [-1, 0, 0]}', "three whole numbers"),
    ],
)
def test_a_malformed_header_is_refused_in_one_line(text: str | None, told: str) -> None:
    with pytest.raises(RequestError, match=told) as refused:
        parse_header(text)
    assert refused.value.status == 422
    assert "\n" not in str(refused.value)


def test_a_file_that_is_mapped_when_it_is_removed_goes_later(tmp_path, monkeypatch) -> None:
    """As on Windows, which keeps a file that is mapped."""
    volume = Volume(np.zeros((2, 3, 4), np.int16), Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3), (2, 3, 4)))
    store, unlink, mapped = ScanStore(tmp_path, Limits()), Path.unlink, set()

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path in mapped:
            raise PermissionError("used by another process")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    first, second = (Upload.of(volume, tmp_path) for _ in range(2))
    for upload in (first, second):
        mapped.add(upload.path)
        upload.remove()
    mapped.discard(first.path)
    store.expire()
    assert not first.path.exists() and second.path.exists()
    mapped.clear()
    third = Upload.of(volume, tmp_path)
    assert list(tmp_path.glob("upload-*")) == [third.path]
