"""Damage to files, as transfers, disks and attackers do it: each mutation is a function of bytes and a generator."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

_Mutation = Callable[[bytes, np.random.Generator, Sequence[bytes]], bytes]

_EXTREMES: Final = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_MAGIC: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"RIFF\xff\xff\xff\x7fWEBPVP8X",
    b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08",
    b"II+\0\x08\0\0\0",
    b"BM",
    b"GIF89a",
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"%PDF-1.7\n",
)
_HEADER: Final = 96
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def mutated(files: Sequence[bytes], others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of `files`, damaged once or more often; `others` are whole files that parts may come from."""
    data = files[rng.integers(len(files))]
    for _ in range(rng.geometric(0.7)):
        data = _MUTATIONS[rng.integers(len(_MUTATIONS))](data, rng, others)
    # Most decoders of PNG look no further than the first wrong checksum.
    return _with_checksums(data) if data.startswith(_PNG_SIGNATURE) and rng.random() < 0.8 else data


def _place(data: bytes, rng: np.random.Generator) -> int:
    """A third of all places are in the header, where sizes, offsets and types are."""
    end = min(len(data), _HEADER) if rng.random() < 1 / 3 else len(data)
    return int(rng.integers(0, max(1, end)))


def _flip(data: bytes, rng: np.random.Generator, _others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.geometric(0.3)) if changed else 0):
        changed[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _truncate(data: bytes, rng: np.random.Generator, _others: Sequence[bytes]) -> bytes:
    return data[: rng.integers(0, len(data) + 1)]


def _splice(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    other = others[rng.integers(len(others))]
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _field(data: bytes, rng: np.random.Generator, _others: Sequence[bytes]) -> bytes:
    """A number of the file becomes an extreme one, or its own length."""
    size, order = int(rng.choice([1, 2, 4])), str(rng.choice(["little", "big"]))
    value = int(rng.choice([*_EXTREMES, len(data)])) & (256**size - 1)
    at = _place(data, rng)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def _repeat(data: bytes, rng: np.random.Generator, _others: Sequence[bytes]) -> bytes:
    """A part of the file stands there many times: chunks, frames, directories."""
    start, length = _place(data, rng), int(rng.integers(1, 65))
    return data[:start] + data[start : start + length] * int(rng.integers(2, 200)) + data[start + length :]


def _drop(data: bytes, rng: np.random.Generator, _others: Sequence[bytes]) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + int(rng.integers(1, 65)) :]


def _random_header(_data: bytes, rng: np.random.Generator, _others: Sequence[bytes]) -> bytes:
    return _MAGIC[rng.integers(len(_MAGIC))] + rng.bytes(int(rng.integers(0, 512)))


_MUTATIONS: Final[tuple[_Mutation, ...]] = (
    _flip,
    _flip,
    _flip,
    _truncate,
    _splice,
    _field,
    _field,
    _field,
    _field,
    _repeat,
    _drop,
    _random_header,
)


def _with_checksums(data: bytes) -> bytes:
    """A PNG's chunks with the checksums of what they now hold."""
    parts, at = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        if len(body) < 4 + length:
            break
        parts += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(parts) + data[at:]
