"""How fast the entropy coder is on a file, and how far its bytes are from what its own models allow.

    python benchmarks/codec.py lego.vqrf
    python benchmarks/codec.py lego.vqrf --no-twin      # seconds instead of minutes

Times are medians of `runs`. The twin, in pure Python, decodes once, to the same field, and writes the levels of a pyramid once,
to the same bytes. For every such stream the bits and the probabilities that it gives its coder are summed up as -log2 p, the
ideal code length, and given to constriction's range coder.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import tyro

from vqrf.codec import bitstream, entropy, walks
from vqrf.codec.pyramid import PyramidField
from vqrf.kernels import has_native

ONE = 1 << 15
"""What a probability of 1 is in the coder."""

OTHERS = {"ideal_bytes": "the ideal", "constriction_bytes": "constriction"}
"""What the levels' bytes are held against."""

Heard = list[tuple[int, int]]
"""Of each bit: the probability that it is 1, in units of 1/ONE, and the bit."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      file: a .vqrf file.
      runs: of the compiled core, that the medians are of.
      twin: also write and read it by the twin, and compare its streams with the ideal.
      as_json: print JSON.
    """

    file: Annotated[Path, tyro.conf.Positional]
    runs: int = 15
    twin: bool = True
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


class Listening(entropy.Encoder):
    """An encoder that remembers every bit and what its model thought of it."""

    def __init__(self, n_contexts: int) -> None:
        super().__init__(n_contexts)
        self.heard: Heard = []

    def _narrow(self, probability: int, bit: int) -> None:
        self.heard.append((probability, bit))
        super()._narrow(probability, bit)


@dataclass(frozen=True)
class Stream:
    """A level's stream.

    Attributes:
      n_values: coefficients in it.
      data: the coded bytes.
      heard: what the coder was given.
    """

    n_values: int
    data: bytes
    heard: Heard

    def ideal_bytes(self) -> float:
        """The code length of the bits under the probabilities that they were coded with."""
        p, bits = np.array(self.heard, float).reshape(-1, 2).T
        return float(-np.log2(np.where(bits == 1, p, ONE - p) / ONE).sum() / 8)

    def constriction_bytes(self) -> int:
        """What constriction's range coder makes of the same bits and probabilities."""
        import constriction  # here, as the rest does without

        coder, family = constriction.stream.queue.RangeEncoder(), constriction.stream.model.Bernoulli(perfect=False)
        p, bits = np.array(self.heard, np.int32).reshape(-1, 2).T
        coder.encode(np.ascontiguousarray(bits), family, p / ONE)
        return 4 * len(coder.get_compressed())


def listen(field: PyramidField) -> list[Stream]:
    """The streams of a pyramid's levels, coarsest first, as the twin writes them."""
    streams, above = [], None
    for nodes, values in zip(field.nodes()[::-1], field.coefficients, strict=True):
        encoder = Listening(walks.level_contexts(values.shape[1]))
        above = walks.code_level(encoder, nodes, above, values.copy())
        streams.append(Stream(values.size, encoder.finish(), encoder.heard))
    return streams


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def measure_core(data: bytes, runs: int) -> dict[str, Any]:
    """Encoding and decoding by the compiled core."""
    field = bitstream.decode(data)
    if bitstream.encode(field) != data:
        raise SystemExit("what it decodes to is encoded to other bytes")
    tasks = {"decode_s": lambda: bitstream.decode(data), "encode_s": lambda: bitstream.encode(field)}
    return {name: statistics.median(timed(task)[0] for _ in range(runs)) for name, task in tasks.items()}


def measure_twin(data: bytes) -> dict[str, Any]:
    """Decoding by the twin, and what its coder writes against the ideal."""
    with mock.patch.object(bitstream, "has_native", lambda: False):
        seconds, field = timed(lambda: bitstream.decode(data))
    if bitstream.encode(field) != data:
        raise SystemExit("the twin decodes to another field")
    row: dict[str, Any] = {"twin_decode_s": seconds}
    if not isinstance(field, PyramidField):
        return row
    streams = listen(field)
    if any(stream.data not in data for stream in streams):
        raise SystemExit("the twin writes other streams")
    names = "level_bytes", "ideal_bytes", "constriction_bytes"
    counts = zip(*((len(s.data), s.ideal_bytes(), s.constriction_bytes()) for s in streams), strict=True)
    return row | dict(zip(names, map(sum, counts), strict=True))


def describe(row: dict[str, Any]) -> str:
    lines = [f"{row['bytes']} bytes: decode {row['decode_s']:.3f} s, encode {row['encode_s']:.3f} s"]
    if "twin_decode_s" in row:
        lines.append(f"twin: decode {row['twin_decode_s']:.1f} s")
    if "level_bytes" in row:
        n = row["level_bytes"]
        ours = [f"{100 * (n / row[other] - 1):+.3f} % against {word}" for other, word in OTHERS.items()]
        lines.append(f"levels: {n} bytes, {', '.join(ours)}")
    return "\n".join(lines)


def main(options: Options) -> None:
    if not has_native():
        raise SystemExit("needs the compiled core")
    data = options.file.read_bytes()
    row = {"bytes": len(data)} | measure_core(data, options.runs)
    if options.twin:
        row |= measure_twin(data)
    print(json.dumps(row) if options.as_json else describe(row))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
