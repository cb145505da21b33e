#!/bin/bash
# What is to be measured on a graphics card, in one go: its tests, its kernels beside the reference, training of lego, compression to
# 0.5 MB, the score, and TensoRF's training. Wants no network.
#
#   benchmarks/device.sh nerf_synthetic/lego
#   benchmarks/device.sh --rehearse     # the same commands with tiny settings, on the CPU, by the kernels for a card
set -euo pipefail
cd "$(dirname "$0")/.."
scene=${1:?a folder of photos, or --rehearse}
python=${PYTHON:-python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# timed TITLE COMMAND...: runs it, and says how long it took.
timed() {
  local title=$1 start=$SECONDS
  shift
  "$@"
  echo "== $title: $((SECONDS - start)) s"
}
vqrf() { "$python" -m vqrf "$@"; }

if [ "$scene" = --rehearse ]; then
  export VQRF_WARP=1 PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}"
  device=cpu tests=(-k "test_rounding_is or test_rays_in_parts") target=() scene="$out/data"
  kernels=(--side 24 --rays 64 --width 48 --height 27 --runs 1)
  "$python" -c "from tiny import tiny_scene; from vqrf.data.scene import save_scene; save_scene(tiny_scene(), '$out/data')"
  # The verbs, with presets that take seconds.
  vqrf() {
    "$python" -c "
import sys, tiny
from vqrf.cli.main import main
from vqrf.compression import presets
from vqrf.training import stages
stages.PRESETS['standard'] = tiny.TINY
presets.PRESETS['compact'] = tiny.TINY_RATE
main(sys.argv[1:])" "$@"
  }
else
  device=cuda tests=() target=(--target-size 500kB) kernels=()
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi

timed "tests" "$python" -m pytest -q -p no:cacheprovider tests/kernels/test_device.py tests/kernels/test_kernels_warp.py "${tests[@]}"
timed "kernels" "$python" benchmarks/device.py --device "$device" "${kernels[@]}"
timed "training" vqrf train "$scene" --out "$out/run" --device "$device" --preset standard
timed "compression" vqrf compress "$out/run" --data "$scene" --out "$out/scene.vqrf" --device "$device" "${target[@]}"
timed "score" vqrf eval "$out/scene.vqrf" --data "$scene"
if [ "$device" = cuda ]; then
  timed "TensoRF" vqrf train "$scene" --out "$out/tensorf" --device "$device" --preset quick --base tensorf
fi
