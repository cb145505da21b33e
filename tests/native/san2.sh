#!/bin/bash
# The kernels under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer. Only the baseline and the
# best instruction set of this CPU are built. Needs g++, or what CXX names. The codec is sanitized by
# tests/codec/test_fuzz.py and tests/fuzz/run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
cxx=${CXX:-g++}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# The flags of CMakeLists.txt, name by name, with -O1 so that a report names the line.
wide="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512"
accepts() { "$cxx" "$@" -x c++ -fsyntax-only /dev/null 2>/dev/null; }
has() { for flag; do grep -qw "$flag" /proc/cpuinfo 2>/dev/null || return 1; done; }
if has avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_tile amx_bf16 && accepts -mamx-tile -mamx-bf16; then
  best=amx flags="$wide -mavx512bf16 -mamx-tile -mamx-bf16 -DVQRF_BF16 -DVQRF_AMX"
elif has avx512f avx512bw avx512dq avx512vl avx512_bf16; then best=avx512bf16 flags="$wide -mavx512bf16 -DVQRF_BF16"
elif has avx512f avx512bw avx512dq avx512vl; then best=avx512 flags=$wide
elif has avx2 fma; then best=avx2 flags="-mavx2 -mfma"
else best="" flags=""; fi

run() { # NAME SANITIZERS
  local common=(-std=c++20 -O1 -g -Wall -Wextra -Werror "-fsanitize=$2" -fno-sanitize-recover=all -pthread -Isrc/native
    -fno-math-errno -fno-trapping-math
    -Wno-uninitialized -Wno-maybe-uninitialized)  # GCC 12 finds both in its own AVX-512 headers
  local jobs=()
  "$cxx" "${common[@]}" -DVQRF_ISA=baseline '-DVQRF_NAME="baseline"' -DVQRF_TABLE=kernels_baseline \
    -c src/native/hot.cpp -o "$build/baseline.o" & jobs+=($!)
  if [ -n "$best" ]; then
    # shellcheck disable=SC2086
    "$cxx" "${common[@]}" $flags "-DVQRF_ISA=$best" "-DVQRF_NAME=\"$best\"" "-DVQRF_TABLE=kernels_$best" -DVQRF_X86_64 \
      -c src/native/hot.cpp -o "$build/best.o" & jobs+=($!)
  fi
  for kernels in images lattice levels rows views; do
    "$cxx" "${common[@]}" -c "src/native/$kernels.cpp" -o "$build/$kernels.o" & jobs+=($!)
  done
  local tiles=(); if [ "$best" = amx ]; then tiles=(-DVQRF_AMX); fi
  "$cxx" "${common[@]}" "${tiles[@]}" ${best:+-DVQRF_X86_64 "-DVQRF_BEST=kernels_$best"} \
    -c tests/native/sanitize_kernels.cpp -o "$build/main.o" & jobs+=($!)
  for job in "${jobs[@]}"; do wait "$job"; done; echo compiled $SECONDS
  "$cxx" "${common[@]}" "$build"/*.o -o "$build/sanitize"
  echo "== $1"
  "${runner[@]}" "$build/sanitize" ; echo ran $SECONDS
}

runner=()
run "AddressSanitizer and UndefinedBehaviorSanitizer" address,undefined
# Where the kernel scatters addresses widely, ThreadSanitizer finds no room for its own.
if setarch -R true 2>/dev/null; then runner=(setarch -R); fi
run "ThreadSanitizer" thread
