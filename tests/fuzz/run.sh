#!/bin/bash
# The C++ decoder under libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer:
#   tests/fuzz/run.sh RUNS [SEED]
# Needs clang++ with its sanitizer runtimes, or what CXX names. The corpus grows in build/fuzz; a failing input is left there
# as well, and `build/fuzz/fuzz FILE` repeats it. On a first run the seeds are the conformance files.
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:?number of mutants} seed=${2:-1}
build=build/fuzz
mkdir -p "$build/corpus" "$build/seeds"
cp conformance/*/*.vqrf "$build/seeds"

${CXX:-clang++} -std=c++20 -O2 -g -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -pthread \
  -Isrc/native -Itests/fuzz tests/fuzz/decode.cpp tests/fuzz/mutate.cpp src/native/bitstream.cpp -o "$build/fuzz"

# The limit of a second is the target's own, in CPU time; that of libFuzzer is for what never ends.
"$build/fuzz" -runs="$runs" -seed="$seed" -max_len=16384 -timeout=60 -rss_limit_mb=2048 -artifact_prefix="$build/" \
  "$build/corpus" "$build/seeds" 2>"$build/log" || { tail -n 40 "$build/log" >&2; exit 1; }
