"""Lines of text as rows of CSR, in Python: the parser of csrc/fo_text.h once more, for installations without it and for tests."""

from __future__ import annotations

import math
import re
from typing import NoReturn

from ..checks import Array

SVMLIGHT, LIBFFM, VW = range(3)
DONE, ROWS_FULL, ENTRIES_FULL, BAD = range(4)
LABEL, INDEX, FIELD, COLON, VALUE, RISING, QUERY, NAME, BAR, SCALE, WEIGHT, BASE = range(12)
BLANKS = b"\t\v\f\r "
MOST = 2**31 - 1


class _Bad(Exception):
    """A bad line: where, and what was expected."""


def _bad(at: int, expected: int) -> NoReturn:
    raise _Bad(at, expected)


class Parser:
    """As ``kernels.text.Parser``."""

    def __init__(self, form: int, least: int, most: int, slots: int, signs: bool, constant: bool) -> None:
        self.form, self.least, self.most = form, least, most
        self.slots, self.signs, self.constant = slots, signs, constant
        self.lines = self.at = 0
        self.wrong = 0, 0, 0
        self.restart()

    def restart(self) -> None:
        """Begin a new piece."""
        self.rows = self.entries = self.highest = 0
        self.queries = 0, 0
        self.lowest = self.most

    def parse(
        self,
        text: bytes | bytearray,
        start: int,
        stop: int,
        labels: Array,
        indptr: Array,
        indices: Array,
        data: Array,
        weights: Array | None = None,
        queries: Array | None = None,
        fields: Array | None = None,
    ) -> int:
        """Parse the whole lines of ``text[start:stop]``."""
        self.at = 0
        while (end := text.find(b"\n", start + self.at, stop)) >= 0:
            line = bytes(text[start + self.at : end])
            begin = len(line) - len(line.lstrip(BLANKS))
            if begin < len(line) and (self.form == VW or line[begin] != ord("#")):
                if self.rows == len(labels):
                    return ROWS_FULL
                row = _VWLine(self, line) if self.form == VW else _IndexedLine(self, line)
                try:
                    row.read(begin)
                    bad = None
                except _Bad as error:
                    bad = error.args
                n = self.entries + len(row.indices)
                if n > len(indices):
                    return ENTRIES_FULL
                if bad:
                    rest = re.match(rb"[^\t\v\f\r \n]*", line[bad[0] :])
                    self.wrong = self.at + bad[0], self.at + bad[0] + (rest.end() if rest else 0), bad[1]
                    return BAD
                labels[self.rows] = row.label
                indices[self.entries : n] = row.indices
                data[self.entries : n] = row.data
                if weights is not None:
                    weights[self.rows] = row.weight
                if queries is not None:
                    queries[self.rows] = row.query or 0
                if fields is not None:
                    fields[self.entries : n] = row.fields
                if self.form != VW:
                    seen, unseen = self.queries
                    self.queries = seen + (row.query is not None), unseen + (row.query is None)
                    self.lowest = min([self.lowest, *row.indices])
                    self.highest = max([self.highest, *row.indices])
                self.rows += 1
                self.entries = n
                indptr[self.rows] = n
            self.at = end + 1 - start
            self.lines += 1
        return DONE


class _Line:
    """One line, read from left to right."""

    WORD = rb"[^\t\v\f\r \n#]*"

    def __init__(self, parser: Parser, line: bytes) -> None:
        self.parser, self.line = parser, line
        self.label, self.weight = math.nan, 1.0
        self.query: int | None = None
        self.indices: list[int] = []
        self.fields: list[int] = []
        self.data: list[float] = []

    def match(self, pattern: bytes, at: int) -> bytes:
        found = re.compile(pattern).match(self.line, at)
        return found[0] if found else b""

    def skip(self, at: int) -> int:
        return at + len(self.match(rb"[\t\v\f\r ]*", at))

    def here(self, at: int) -> bytes:
        """The byte at `at`; nothing at the end."""
        return self.line[at : at + 1]

    def number(self, at: int, expected: int) -> tuple[float, int]:
        """The number that a word is, and where the word ends."""
        token = self.match(self.WORD, at)
        try:
            return float(token), at + len(token)
        except ValueError:
            _bad(at, expected)


class _IndexedLine(_Line):
    def integer(self, at: int, least: int, most: int, expected: int) -> tuple[int, int]:
        token = self.match(rb"[0-9]*", at)
        if not token or not least <= int(token) <= most:
            _bad(at, expected)
        return int(token), at + len(token)

    def read(self, at: int) -> None:
        parser = self.parser
        self.label, at = self.number(at, LABEL)
        at = self.skip(at)
        if parser.form == SVMLIGHT and self.line.startswith(b"qid:", at):
            token = self.match(self.WORD, at)
            if not re.fullmatch(rb"qid:[+-]?[0-9]+", token) or not -(2**63) <= int(token[4:]) < 2**63:
                _bad(at, QUERY)
            self.query = int(token[4:])
            at = self.skip(at + len(token))
        last = -1
        while at < len(self.line) and self.here(at) != b"#":
            word = at
            if parser.form == LIBFFM:
                field, at = self.integer(at, 0, MOST, FIELD)
                if self.here(at) != b":":
                    _bad(word, COLON)
                word = at = at + 1
            index, at = self.integer(at, parser.least, parser.most, INDEX)
            if self.here(at) != b":":
                _bad(word, COLON)
            if parser.form == SVMLIGHT and index <= last:
                _bad(word, RISING)
            value, at = self.number(at + 1, VALUE)
            self.indices.append(index)
            self.data.append(value)
            if parser.form == LIBFFM:
                self.fields.append(field)
            last, at = index, self.skip(at)


class _VWLine(_Line):
    WORD = rb"[^\t\v\f\r \n|]*"

    def read(self, at: int) -> None:
        numbers, line = [math.nan, 1.0, 0.0], self.line
        n = 0
        while self.here(at) != b"|":
            token = self.match(self.WORD, at)
            end = at + len(token)
            if token and (self.here(end) == b"|" or token.startswith(b"'")):
                at = self.skip(end)
                if self.here(at) != b"|":
                    _bad(at, BAR)
                break
            if not token or n == 3:
                _bad(at, BAR)
            numbers[n], _ = self.number(at, (LABEL, WEIGHT, BASE)[n])
            if n == 1 and not 0 <= numbers[1] < math.inf:
                _bad(at, WEIGHT)
            if n == 2 and numbers[2] != 0:
                _bad(at, BASE)
            n, at = n + 1, self.skip(end)
        while at < len(line):
            space = self.match(rb"[^\t\v\f\r \n|:]*", at + 1)
            at += 1 + len(space)
            prefix = space + b"^" if space else b""
            scale = 1.0
            if self.here(at) == b":":
                scale, at = self.number(at + 1, SCALE)
            at = self.skip(at)
            while at < len(line) and self.here(at) != b"|":
                name = self.match(rb"[^\t\v\f\r \n|:]*", at)
                if not name:
                    _bad(at, NAME)
                at += len(name)
                value = 1.0
                if self.here(at) == b":":
                    value, at = self.number(at + 1, VALUE)
                self.add(prefix + name, value * scale)
                at = self.skip(at)
        if self.parser.constant:
            self.add(b"Constant", 1.0)
        self.label, self.weight = numbers[0], numbers[1]

    def add(self, name: bytes, value: float) -> None:
        if value != 0:
            h = murmur(name)
            self.indices.append((2**32 - h if h >> 31 else h) % self.parser.slots)
            self.data.append(-value if self.parser.signs and h >> 31 else value)


def murmur(key: bytes, seed: int = 0) -> int:
    """As ``kernels.text.murmur``."""

    def rotate(x: int, bits: int) -> int:
        return (x << bits | x >> (32 - bits)) & 0xFFFFFFFF

    def scramble(word: int) -> int:
        return rotate(word * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF

    h, whole = seed, len(key) // 4 * 4
    for k in range(0, whole, 4):
        h = (rotate(h ^ scramble(int.from_bytes(key[k : k + 4], "little")), 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    h ^= scramble(int.from_bytes(key[whole:], "little")) ^ len(key)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16
