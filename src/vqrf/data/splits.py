"""Which photos are held out: what the dataset says, every n-th, or those of a sector of the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vqrf.cameras import upright
from vqrf.data.listing import Shot, Split
from vqrf.data.placement import look_of, up_of

USUAL_HOLD_OUT = "8"
"""Every 8th photo is held out where a dataset has no test split, as the field does with LLFF's scenes."""

MAX_HOLD_OUT = 1 << 20
OWN, SECTOR = "own", "sector"


def split_shots(shots: Sequence[Shot], hold_out: str) -> tuple[tuple[Shot, ...], str]:
    """The shots with a split each, and what to ask for to get the same again.

    Args:
      hold_out: "own": as the dataset says. A number: every n-th in the order of names, whatever the dataset says; 0: none.
        "sector": an eighth of the cameras, side by side as seen from what is up, so that what they see has to be guessed.
        "": as the dataset says; where it holds out none, every 8th, if there are as many.

    Raises:
      ValueError: `hold_out` is none of these, or 1: nothing would be left to train on.
    """
    if not hold_out:
        is_split = any(shot.split == "test" for shot in shots)
        hold_out = OWN if is_split else USUAL_HOLD_OUT if len(shots) >= int(USUAL_HOLD_OUT) else "0"
    if hold_out == OWN:
        return tuple(shot if shot.split else replace(shot, split="train") for shot in shots), OWN
    if hold_out == SECTOR:
        return _with_held_out(shots, _sector(shots)), SECTOR
    n = int(hold_out) if hold_out.isdecimal() and len(hold_out) < len(str(MAX_HOLD_OUT)) else 1
    if n == 1:
        raise ValueError(f"hold_out: expected own, sector, 0, or a number from 2, got {hold_out[:40]!a}")
    by_name = sorted(range(len(shots)), key=lambda i: shots[i].name)
    return _with_held_out(shots, by_name[::n] if n else []), hold_out


def _with_held_out(shots: Sequence[Shot], held_out: Sequence[int]) -> tuple[Shot, ...]:
    splits: tuple[Split, Split] = "train", "test"
    numbers = set(held_out)
    return tuple(replace(shot, split=splits[i in numbers]) for i, shot in enumerate(shots))


def _sector(shots: Sequence[Shot]) -> list[int]:
    """An eighth of the shots, from that which is first by name on around what their cameras look at, or stand around."""
    poses = np.stack([shot.pose for shot in shots])
    looks = look_of(poses)
    away = poses[:, :3, 3] - (looks.centre if looks.is_at_one else poses[:, :3, 3].mean(0))
    turned = away @ upright(up_of(poses))
    first = min(range(len(shots)), key=lambda i: shots[i].name)
    azimuth = np.arctan2(turned[:, 1], turned[:, 0])
    around = np.argsort((azimuth - azimuth[first]) % (2 * np.pi), kind="stable")
    return [int(i) for i in around[: max(len(shots) // int(USUAL_HOLD_OUT), 1)]]
