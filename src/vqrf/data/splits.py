"""Which photos are held out: what the dataset says, or every n-th."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vqrf.data.listing import Shot, Split

USUAL_HOLD_OUT = "8"
"""Every 8th photo is held out where a dataset has no test split, as the field does with LLFF's scenes."""

MAX_HOLD_OUT = 1 << 20
OWN = "own"


def split_shots(shots: Sequence[Shot], hold_out: str) -> tuple[tuple[Shot, ...], str]:
    """The shots with a split each, and what to ask for to get the same again.

    Args:
      hold_out: "own": as the dataset says. A number: every n-th in the order of names, whatever the dataset says; 0: none.
        "": as the dataset says; where it holds out none, every 8th, if there are as many.

    Raises:
      ValueError: `hold_out` is none of these, or 1: nothing would be left to train on.
    """
    if not hold_out:
        is_split = any(shot.split == "test" for shot in shots)
        hold_out = OWN if is_split else USUAL_HOLD_OUT if len(shots) >= int(USUAL_HOLD_OUT) else "0"
    if hold_out == OWN:
        return tuple(shot if shot.split else replace(shot, split="train") for shot in shots), OWN
    n = int(hold_out) if hold_out.isdecimal() and len(hold_out) < len(str(MAX_HOLD_OUT)) else 1
    if n == 1:
        raise ValueError(f"hold_out: expected own, 0, or a number from 2, got {hold_out[:40]!a}")
    by_name = sorted(range(len(shots)), key=lambda i: shots[i].name)
    held_out = set(by_name[::n]) if n else set()
    splits: tuple[Split, Split] = "train", "test"
    return tuple(replace(shot, split=splits[i in held_out]) for i, shot in enumerate(shots)), hold_out
