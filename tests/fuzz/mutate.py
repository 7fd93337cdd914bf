"""A file gone wrong, by chance but the same for the same seed. In: bytes, a random generator. Out: other bytes. Knows no format of ours."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

TOKENS = re.compile(rb'"[^"\n]*"|[\w.+-]+|[\[\]{}=,:]|\n')
WORDS: tuple[bytes, ...] = (
    *(
        b"",
        b"0",
        b"-1",
        b"1e400",
        b"-1e400",
        b"nan",
        b"inf",
        b"NaN",
        b"-Infinity",
        b"9" * 40,
        b"9" * 5000,
        b"1e999999999",
        b"0x7fffffffffffffff",
    ),
    *(
        b"true",
        b"null",
        b"{}",
        b"[]",
        b'""',
        b'"\\u0000"',
        b'"\\ud800"',
        b"\x00",
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xef\xbb\xbf",
        b"\r",
        b"\t",
    ),
    *(
        b'"../../../../etc/passwd"',
        b'"/dev/zero"',
        b'"/dev/stdin"',
        b'"/proc/self/mem"',
        b'"http://example.invalid/x"',
        b'"concat:a|b"',
    ),
    *(
        b"[" * 3000,
        b"{" * 300,
        b'{"a":' * 3000,
        b"a=" + b"[" * 2000,
        b"[[" + b"a." * 1500 + b"a]]",
        b"A" * 70_000,
        b"'''",
        b'"""',
        b"#",
    ),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        -(2**31),
        2**63,
        2**64,
        10**40,
        10**400,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
    ),
    *(
        "",
        "x",
        "\0",
        "\ud800",
        "..",
        "../../x",
        "/etc/passwd",
        "/dev/zero",
        "/dev/tty",
        "/proc/self/environ",
        "a" * 5000,
        "1e999999999",
    ),
    *(
        "1/0",
        "nan",
        "-i",
        "http://x",
        "%d%s",
        "{x}",
        "\n",
        "\u202e",
        [],
        {},
        [[]],
        [None],
        {"": None},
        [0] * 300,
        "0" * 4000,
        ".",
        "~",
        "-1",
    ),
)


def deep(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def mutated(data: bytes, chance: Random, *, json_lines: bool = False, sign: Callable[[Any], Any] = lambda tree: tree) -> bytes:
    """One to four things wrong with it. json_lines: each line is JSON, and may go wrong as such. sign: what is done to a tree before it
    is written, where a file holds a hash of itself."""
    if json_lines and chance.random() < 0.6:
        data = _tree_wrong(data, chance, sign)
        if chance.random() < 0.8:
            return data
    for _ in range(chance.choice((1, 1, 2, 4))):
        data = chance.choice(_WRONGS)(data, chance)
    return data


def _tree_wrong(data: bytes, chance: Random, sign: Callable[[Any], Any]) -> bytes:
    try:
        tree = json.loads(data)
    except ValueError:
        lines = data.splitlines() or [b""]
        n = chance.randrange(len(lines))
        try:
            lines[n] = json.dumps(_wrong(json.loads(lines[n]), chance)).encode()
        except ValueError:
            lines[n] = chance.choice(WORDS)
        return b"\n".join(lines)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        tree = _wrong(tree, chance)
    return json.dumps(sign(tree)).encode()


def _wrong(tree: Any, chance: Random) -> Any:
    """One place of the tree, any, changed."""
    if isinstance(tree, dict | list) and tree and chance.random() < 0.85:
        key = chance.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        match chance.randrange(12):
            case 0:
                del tree[key]
            case 1 if isinstance(tree, dict):
                tree[chance.choice(("", "x", "__class__", "v", "\0", key + "x"))] = tree.pop(key)
            case 1 | 2:
                other = chance.choice(list(tree.values()) if isinstance(tree, dict) else tree)
                tree[key] = deepcopy(other)
            case 3:
                tree[key] = [tree[key]] if chance.random() < 0.9 else deep(400)
            case _:
                tree[key] = _wrong(tree[key], chance)
        return tree
    return deepcopy(chance.choice(VALUES))


def _flip(data: bytes, chance: Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 3, 10)) if found else 0):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def _cut(data: bytes, chance: Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _swap(data: bytes, chance: Random) -> bytes:
    """Two words of it."""
    found = list(TOKENS.finditer(data))
    if len(found) < 2:
        return data
    (a, b), (c, d) = sorted(one.span() for one in chance.sample(found, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _replace(data: bytes, chance: Random) -> bytes:
    """A word of it by an unusual one."""
    found = list(TOKENS.finditer(data))
    a, b = chance.choice(found).span() if found else (0, 0)
    return data[:a] + chance.choice(WORDS) + data[b:]


def _insert(data: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(WORDS) + data[at:]


def _again(data: bytes, chance: Random) -> bytes:
    """A stretch of it twice: duplicate keys and tables."""
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def _lose(data: bytes, chance: Random) -> bytes:
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:]


def _number(data: bytes, chance: Random) -> bytes:
    """Bytes that may be a length or an offset set to an extreme."""
    size = chance.choice((1, 2, 4, 8))
    value = (
        chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        if size == 1
        else chance.choice((0, 1, 1 << (8 * size - 1), (1 << 8 * size) - 1, (1 << 8 * size - 1) - 1))
    )
    at = chance.randrange(max(len(data) - size, 0) + 1)
    return data[:at] + value.to_bytes(size, chance.choice(("big", "little"))) + data[at + size :]


_WRONGS = (_flip, _flip, _cut, _swap, _replace, _replace, _insert, _again, _lose, _number)
