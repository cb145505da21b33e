"""Files that attackers made, each through the verb that it broke: the right value or one line, within two gigabytes.

The files are not part of this project. Where they are not beside it, tests of the same kinds make their own: see
`tests/cases/test_checkpoints.py`, `tests/interop/test_interop_hostile.py`, `tests/cli/test_cli_limits.py`,
`tests/cli/test_cli_ends.py`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from apart import MOST_BYTES, Apart, Ended

HOSTILE = Path(__file__).parents[3] / "shared" / "cases" / "hostile"
ORBIT = "--path orbit --frames 1 --width 8 --height 8 --out {out}/o"

pytestmark = [
    pytest.mark.skipif(not HOSTILE.is_dir(), reason="the attackers' files are not part of this project"),
    pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does"),
    pytest.mark.slow,
]

REFUSED: dict[str, tuple[str, str]] = {
    "A2 a tuple nested deep": ("info {in}/pickle-segfault/th_deeptuple.th", "nested more than 64 deep"),
    "A2 a list where a text is expected": ("info {in}/pickle-segfault/th_unhash.th", "shadingMode: expected a text"),
    "A2 a list nested deep": ("info {in}/pickle-segfault/th_deepstr.th", "nested more than 64 deep"),
    "A3 a tensor of half a million sides": ("info {in}/pickle-prod-hang/prod_tensor.tar", "sides"),
    "A3 a tensor of many sides": ("info {in}/pickle-prod-hang/prod_tensor_20k.tar", "the limit is 8"),
    "A3 an array of many sides": ("info {in}/pickle-prod-hang/prod_numpy.tar", "more than 8 sides"),
    "A4 a zip of nothing, drawn": (f"render {{in}}/vqrf-zip-bomb/vq_bomb.zip {ORBIT}", "--max-memory"),
    "A6 lines of a great lattice, drawn": (f"render {{in}}/tensorf-bomb/cp_bomb.th {ORBIT}", "--max-memory"),
    "A7 a name that a terminal obeys": ("info {in}/escape-in-error/esc_name.tar", r"\x1b]0;pwn"),
    "A7 a name of eight megabytes": ("info {in}/escape-in-error/key16M.tar", "refers to the storage"),
    "A8 a shift of no values": ("info {in}/interop-escapes/s2_143.tar", "s2_143.tar"),
    "A8 a mask of no voxels": ("info {in}/interop-escapes/s2_476.tar", "s2_476.tar"),
    "A8 a state that is none": ("info {in}/interop-escapes/z1_143.zip", "model_state_dict"),
    "B5 two billion samples, verified": ("verify {in}/render-slow/slow_n2e9.vqrf", "step_world"),
    "B5 two billion samples, drawn": (f"render {{in}}/render-slow/slow_n2e9.vqrf {ORBIT}", "step_world"),
    "B5 two billion samples, exported": ("export {in}/render-slow/slow_n2e9.vqrf {out}/a.html", "step_world"),
    "B6 more samples than there are numbers": (f"render {{in}}/render-slow/c_step_1e30.vqrf {ORBIT}", "step_world"),
    "B7 a thousand a side, drawn": (f"render {{in}}/memory-bombs/big_1000_3.vqrf {ORBIT}", "--max-memory"),
    "B7 a thousand a side, converted": ("convert {in}/memory-bombs/big_1000_27.vqrf {out}/run", "--max-memory"),
    "B7 512 a side of 27 channels": (f"render {{in}}/memory-bombs/big_512_27.vqrf {ORBIT}", "--max-memory"),
    "B9 a box that is a place": (f"render {{in}}/hostile-constants/c_box_f32same.vqrf {ORBIT}", "bounds"),
    "B9 a box of nothing": (f"render {{in}}/hostile-constants/c_box_tiny.vqrf {ORBIT}", "bounds"),
    "B9 a box beyond numbers": (f"render {{in}}/hostile-constants/c_box_huge.vqrf {ORBIT}", "bounds"),
    "B9 a box that no shader takes": ("export {in}/hostile-constants/c_box_1e30.vqrf {out}/a.html", "bounds"),
    "B11 two lengths that are wrong": ("verify {in}/js-order/d_1_814_0.vqrf", "header at byte"),
    "D1 one picture sixty times": ("train {in}/dataset-bombs/bomb1 --out {out}/run --preset demo", "as no photo has"),
    "D2 a picture that is elsewhere": ("train {in}/dataset-bombs/symlink_img --out {out}/run --preset demo", "symlink_img"),
    "D3 an angle of nothing": ("train {in}/dataset-bombs/angle_tiny --out {out}/run --preset demo", "angle_tiny"),
    "D3 a pose beyond numbers": ("train {in}/dataset-bombs/pose_1e308 --out {out}/run --preset demo", "pose_1e308"),
    "D3 a farness beyond numbers": ("train {in}/dataset-bombs/far_1e308 --out {out}/run --preset demo", "far"),
    "E4 a device without an end": ("info /dev/zero", "no file"),
    "E8 a picture of a million a side": (
        "render {in}/info-markup-crash/esc.vqrf --path orbit --width 1000000 --height 1000000 --out {out}/o",
        "--width",
    ),
    "E8 frames without an end": (
        "render {in}/info-markup-crash/esc.vqrf --path orbit --frames 1000000000 --out {out}/o",
        "--frames",
    ),
}
TAKEN: dict[str, tuple[str, str]] = {
    "A4 a zip of nothing": ("info {in}/vqrf-zip-bomb/vq_bomb.zip", "1010 x 1010 x 1010"),
    "A6 lines of a great lattice": ("info {in}/tensorf-bomb/cp_bomb.th", "423 x 423 x 423"),
    "B1 markup that is none": ("info {in}/info-markup-crash/markup_bad.vqrf", "[/b]"),
    "B1 markup that would be obeyed": ("info {in}/info-markup-crash/markup_link.vqrf", "[link="),
    "B2 what a terminal obeys": ("info {in}/info-markup-crash/esc.vqrf", r"\x1b"),
    "B3 half of a character": ("info {in}/info-markup-crash/surrogate.vqrf", r"\ud800"),
    "B4 one layer": (f"render {{in}}/valid-mlp-not-rendered/mlp_l1.vqrf {ORBIT}", "wrote 1 images"),
    "B4 eleven layers": (f"render {{in}}/valid-mlp-not-rendered/mlp_l11.vqrf {ORBIT}", "wrote 1 images"),
    "B4 sixteen layers": (f"render {{in}}/valid-mlp-not-rendered/mlp_l16.vqrf {ORBIT}", "wrote 1 images"),
    "B4 4092 inputs": (f"render {{in}}/valid-mlp-not-rendered/mlp_in4092.vqrf {ORBIT}", "wrote 1 images"),
    "B4 one wide": (f"render {{in}}/valid-mlp-not-rendered/mlp_w1.vqrf {ORBIT}", "wrote 1 images"),
    "B9 a bias beyond an exponential": ("convert {in}/hostile-constants/c_bias_neg.vqrf {out}/a.tar", "wrote"),
    "B7 a thousand a side": ("info {in}/memory-bombs/big_1000_3.vqrf", "1000 x 1000 x 1000"),
    "B7 a thousand a side of 27 channels": ("verify {in}/memory-bombs/big_1000_27.vqrf", "every section is whole"),
}


def ended(apart: Apart, words: str, out: Path) -> Ended:
    return apart.run(*(word.replace("{in}", str(HOSTILE)).replace("{out}", str(out)) for word in shlex.split(words)))


def expect_plain(text: str) -> None:
    """No traceback, and nothing that a terminal obeys."""
    assert "Traceback" not in text and "fault of this program" not in text
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line_and_leaves_nothing(case: str, apart: Apart, tmp_path: Path) -> None:
    words, reason = REFUSED[case]
    end = ended(apart, words, tmp_path)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert reason in end.err and len(end.err) < 800
    expect_plain(end.err)
    assert end.peak_bytes <= MOST_BYTES
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_odd_and_whole_is_taken(case: str, apart: Apart, tmp_path: Path) -> None:
    words, value = TAKEN[case]
    end = ended(apart, words, tmp_path)
    assert end.code == 0 and value in end.out, end
    expect_plain(end.out + end.err)
    assert end.peak_bytes <= MOST_BYTES


def test_b8_a_thousand_a_side_costs_what_it_says_and_a_fifth(apart: Apart, tmp_path: Path) -> None:
    words = "verify {in}/memory-bombs/big_1000_3.vqrf --max-memory"
    end = ended(apart, f"{words} 1.1GB", tmp_path)
    assert end.code == 0 and end.peak_bytes <= 1.2 * 1.1e9, end
    end = ended(apart, f"{words} 0.9GB", tmp_path)
    assert end.code == 2 and end.err.count("\n") == 1 and end.peak_bytes <= 1.2 * 0.9e9, end


@pytest.mark.parametrize("name", ["down_bool", "down_huge"])
def test_b10_a_downscale_that_is_none_is_not_believed(name: str, apart: Apart, tmp_path: Path) -> None:
    words = f"eval {{in}}/eval-downscale-true/{name}.vqrf --data {{in}}/dataset-bombs/angle_tiny"
    end = ended(apart, words, tmp_path)
    assert end.code == 2 and end.err.count("\n") == 1 and len(end.err) < 800, end
    expect_plain(end.err)


def test_d5_sixteen_bits_are_read_or_refused_in_a_line(apart: Apart, tmp_path: Path) -> None:
    end = ended(apart, "check {in}/dataset-bombs/bitdepth16", tmp_path)
    assert end.code in (0, 2) and end.err.count("\n") == (end.code == 2), end
    expect_plain(end.out + end.err)


def test_e5_a_name_that_is_no_text_is_a_title_too(apart: Apart, tmp_path: Path) -> None:
    path = tmp_path / "b\udcffd.vqrf"
    path.write_bytes((HOSTILE / "info-markup-crash" / "esc.vqrf").read_bytes())
    end = apart.run("export", path.as_posix(), tmp_path / "a.html")
    assert end.code == 0 and (tmp_path / "a.html").read_bytes().startswith(b"<!"), end
    expect_plain(end.out)
