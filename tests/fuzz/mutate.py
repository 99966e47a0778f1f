"""What can happen to a file, as functions of a random generator: bits flip, ends are lost, numbers become absurd."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

_SIZES = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1e-45, 1e30, 3.4e38, -1.0, float("inf"), float("-inf"), float("nan"))
_NUMBERS = (
    b"-1", b"0", b"1", b"1.5", b"1e999", b"-1e999", b"1e-999", b"nan", b"inf", b"-inf", b"2147483647", b"2147483648",
    b"4294967296", b"9223372036854775808", b"99999999999999999999999", b"1_000", b"+3", b"0x10", b"\xd9\xa3",
    b"9" * 5000, b"", b"null", b"true", b'"x"', b"[]", b"{}",
)  # fmt: skip
_ODD = (
    b"\0", b"\r", b"\n\n", b"\x0b", b"\x1b[2J", b"\xef\xbb\xbf", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xe3\x80\x80", b"\xff",
    b"\xed\xa0\x80", b"\xc3", b"\\ud800", b"[" * 3000, b'{"a":' * 3000, b"|", b"../", b"/dev/zero", b"#", b"]", b"NaN",
)  # fmt: skip
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")
_FIELD = re.compile(rb"[^\s,:]+")

Mutation = Callable[[random.Random, bytes], bytes]


def _span(rng: random.Random, data: bytes, longest: int = 64) -> tuple[int, int]:
    """Begin and end of a piece of the data; short ones are as frequent as long ones."""
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + int(longest ** rng.random()))


def _replaced(data: bytes, begin: int, end: int, piece: bytes) -> bytes:
    return data[:begin] + piece + data[end:]


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return _replaced(data, at, at + 1, bytes([data[at] ^ 1 << rng.randrange(8)]))


def set_byte(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return _replaced(data, at, at + 1, bytes([rng.choice((0, 1, 9, 10, 32, 127, 128, 255, rng.randrange(256)))]))


def cut_end(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((rng.randrange(len(data)), len(data) - 1, rng.randrange(min(64, len(data)))))]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    return _replaced(data, *_span(rng, data, len(data)), b"")


def insert_bytes(rng: random.Random, data: bytes) -> bytes:
    begin = rng.randrange(len(data) + 1)
    return _replaced(data, begin, begin, rng.randbytes(int(64 ** rng.random())))


def insert_odd(rng: random.Random, data: bytes) -> bytes:
    begin = rng.randrange(len(data) + 1)
    return _replaced(data, begin, begin, rng.choice(_ODD))


def repeat_block(rng: random.Random, data: bytes) -> bytes:
    begin, end = _span(rng, data, len(data))
    return _replaced(data, begin, begin, data[begin:end] * rng.choice((1, 2, 30)))[: max(1 << 16, 2 * len(data))]


def swap_blocks(rng: random.Random, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, data), _span(rng, data)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def huge_number(rng: random.Random, data: bytes) -> bytes:
    """A size or a float over whatever is there, mostly in the header."""
    if rng.random() < 0.3:
        piece = struct.pack(rng.choice("<>") + rng.choice("fd"), rng.choice(_FLOATS))
    else:
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice(_SIZES) + rng.choice((-1, 0, 1))
        piece = (value % 256**width).to_bytes(width, rng.choice(("little", "big")))  # type: ignore[arg-type]
    begin = rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))
    return _replaced(data, begin, begin + len(piece), piece)


def other_number(rng: random.Random, data: bytes) -> bytes:
    """Another number where one is written in digits."""
    found = list(_NUMBER.finditer(data[: 1 << 14]))
    return _replaced(data, *rng.choice(found).span(), rng.choice(_NUMBERS)) if found else flip_bit(rng, data)


def swap_fields(rng: random.Random, data: bytes) -> bytes:
    found = list(_FIELD.finditer(data[: 1 << 14]))
    if len(found) < 2:
        return flip_bit(rng, data)
    (a, b), (c, d) = (match.span() for match in sorted(rng.sample(found, 2), key=re.Match.start))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def change_lines(rng: random.Random, data: bytes) -> bytes:
    """A line twice, gone, elsewhere, or without its end."""
    lines = data.splitlines(keepends=True)
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines.insert(to, lines[at])
    elif change == 1:
        del lines[at]
    elif change == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = lines[at].rstrip()
    return b"".join(lines)


MUTATIONS: Sequence[Mutation] = (
    flip_bit, set_byte, cut_end, cut_out, insert_bytes, insert_odd, repeat_block, swap_blocks, huge_number,
    other_number, swap_fields, change_lines,
)  # fmt: skip


def mutate(rng: random.Random, data: bytes) -> bytes:
    """The data after one mutation, or a few."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not data:
            break
        data = rng.choice(MUTATIONS)(rng, data)
    return data
