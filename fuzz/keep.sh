#!/usr/bin/env bash
# fuzz/keep.sh TARGET: the fewest short cases of the corpus that reach all that the short ones reach, as lines of
# hexadecimal digits in fuzz/cases/TARGET.txt, where `cargo test` plays them. What is there is taken into account.
set -euo pipefail
cd "$(dirname "$0")"
target=$1
few=$(mktemp -d)
trap 'rm -rf "$few"' EXIT
mkdir -p "corpus/$target"
while read -r case; do
    xxd -r -p <<<"$case" >"corpus/$target/kept-$(cksum <<<"$case" | cut -d ' ' -f 1)"
done <"cases/$target.txt"
cargo fuzz run --sanitizer none "$target" "$few" "corpus/$target" -- \
    -set_cover_merge=1 -use_counters=0 -max_len=256
for case in "$few"/*; do xxd -p -c 0 "$case"; done | sort >"cases/$target.txt"
