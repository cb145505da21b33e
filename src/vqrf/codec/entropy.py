"""Symbols to bytes and back: an integer range coder with adaptive contexts.

This is the readable twin of `src/native/entropy.hpp`; FORMAT.md section 5 specifies both, and the tests hold them to the same
bytes. Nothing here is a float, so that any language can agree on every bit.

An `Encoder` and a `Decoder` have the same methods: the encoder takes a value and gives it back, the decoder ignores what it is
given and answers with what the bytes say.

Source: the range coder is Martin's (1979) in the carry form that LZMA made common; two-speed estimates as in video
coding (VVC's CABAC). Departs: young contexts learn at about 1/n before they settle.
"""

from __future__ import annotations

from typing import Protocol

MATURE = 80
"""Bits after which a context adapts at its final speed."""
FAST_SHIFT = 5
SLOW_SHIFT = [1] + [2] * 2 + [3] * 4 + [4] * 13 + [5] * 20 + [6] * 40 + [7]
"""Speed of the slow estimate after n bits, as a shift: about 1/(n + 1.5), down to 1/128."""

PROBABILITY_BITS = 15
RENORMALIZE = 1 << 24


class Damaged(Exception):
    """The coded bytes are not what any encoder wrote."""


class Coder(Protocol):
    """What a walk needs of an `Encoder` or a `Decoder`."""

    def bit(self, context: int, value: int) -> int:
        """One bit in an adaptive context."""

    def tree(self, base: int, n_bits: int, value: int) -> int:
        """`n_bits` of `value`, most significant first; contexts are `base` + the nodes 1.. of a tree."""

    def direct(self, n_bits: int, value: int) -> int:
        """`n_bits` without a model, each of probability 1/2."""


class _Model:
    """The adaptive state of every context: two estimates of P(bit = 1) in 1/65536 and a count."""

    def __init__(self, n_contexts: int) -> None:
        self.fast = [1 << 15] * n_contexts
        self.slow = [1 << 15] * n_contexts
        self.seen = [0] * n_contexts

    def probability(self, context: int) -> int:
        """P(bit = 1) in 1/32768, between 39 and 32728: an estimate stops moving below 2^shift."""
        return (self.fast[context] + self.slow[context]) >> 2

    def update(self, context: int, bit: int) -> None:
        seen = self.seen[context]
        slow_shift = SLOW_SHIFT[seen]
        fast_shift = slow_shift if slow_shift < FAST_SHIFT else FAST_SHIFT
        if bit:
            self.fast[context] += (65535 - self.fast[context]) >> fast_shift
            self.slow[context] += (65535 - self.slow[context]) >> slow_shift
        else:
            self.fast[context] -= self.fast[context] >> fast_shift
            self.slow[context] -= self.slow[context] >> slow_shift
        if seen < MATURE:
            self.seen[context] = seen + 1


class Encoder:
    """Bits to bytes.

    >>> encoder = Encoder(1)
    >>> _ = [encoder.bit(0, bit) for bit in (1, 1, 0, 1) * 50]
    >>> data = encoder.finish()
    >>> len(data)                        # 200 bits of entropy 0.81: 20 bytes; learning and ending take 4
    24
    >>> decoder = Decoder(1, data)
    >>> [decoder.bit(0) for _ in range(4)], decoder.is_complete()
    ([1, 1, 0, 1], False)
    """

    def __init__(self, n_contexts: int) -> None:
        self._model = _Model(n_contexts)
        self._low, self._range = 0, 0xFFFFFFFF
        self._held, self._n_waiting = 0, 0
        self._bytes = bytearray()

    def bit(self, context: int, value: int) -> int:
        self._narrow(self._model.probability(context), value)
        self._model.update(context, value)
        return value

    def tree(self, base: int, n_bits: int, value: int) -> int:
        node = 1
        for i in range(n_bits - 1, -1, -1):
            node = 2 * node + self.bit(base + node, value >> i & 1)
        return value

    def direct(self, n_bits: int, value: int) -> int:
        for i in range(n_bits - 1, -1, -1):
            self._narrow(1 << (PROBABILITY_BITS - 1), value >> i & 1)
        return value

    def finish(self) -> bytes:
        """The bytes so far and the four that end the stream."""
        for _ in range(5):
            self._shift_out()
        return bytes(self._bytes[1:])  # the first is always 0: no carry can leave the first real byte

    def _narrow(self, probability: int, bit: int) -> None:
        bound = (self._range >> PROBABILITY_BITS) * probability
        if bit:
            self._range = bound
        else:
            self._low += bound
            self._range -= bound
        while self._range < RENORMALIZE:
            self._range <<= 8
            self._shift_out()

    def _shift_out(self) -> None:
        """Move the top byte of `low` out; a run of 0xFF waits, since a carry may still turn it to zeros."""
        if self._low < 0xFF000000 or self._low > 0xFFFFFFFF:
            carry = self._low >> 32
            self._bytes.append(self._held + carry & 0xFF)
            self._bytes += bytes([0xFF + carry & 0xFF]) * self._n_waiting
            self._n_waiting = 0
            self._held = self._low >> 24 & 0xFF
        else:
            self._n_waiting += 1
        self._low = (self._low & 0x00FFFFFF) << 8


class Decoder:
    """Bytes to bits. Safe for untrusted input: raises `Damaged` where the bytes end too early."""

    def __init__(self, n_contexts: int, data: bytes) -> None:
        if len(data) < 4:
            raise Damaged
        self._model = _Model(n_contexts)
        self._data, self._next = data, 4
        self._range, self._code = 0xFFFFFFFF, int.from_bytes(data[:4], "big")
        if self._code >= self._range:  # `code < range` holds from here on, so that 32 bits are enough
            raise Damaged

    def bit(self, context: int, value: int = 0) -> int:
        bit = self._narrow(self._model.probability(context))
        self._model.update(context, bit)
        return bit

    def tree(self, base: int, n_bits: int, value: int = 0) -> int:
        node = 1
        for _ in range(n_bits):
            node = 2 * node + self.bit(base + node)
        return node - (1 << n_bits)

    def direct(self, n_bits: int, value: int = 0) -> int:
        value = 0
        for _ in range(n_bits):
            value = 2 * value + self._narrow(1 << (PROBABILITY_BITS - 1))
        return value

    def is_complete(self) -> bool:
        """Whether the stream ended exactly where its encoder would have ended it."""
        return self._next == len(self._data) and self._code == 0

    def _narrow(self, probability: int) -> int:
        bound = (self._range >> PROBABILITY_BITS) * probability
        if self._code < bound:
            bit, self._range = 1, bound
        else:
            bit = 0
            self._code -= bound
            self._range -= bound
        while self._range < RENORMALIZE:
            if self._next == len(self._data):
                raise Damaged
            self._range <<= 8
            self._code = self._code << 8 | self._data[self._next]
            self._next += 1
        return bit
