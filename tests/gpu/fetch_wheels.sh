#!/usr/bin/env bash
# Fetches the wheels of wheels.txt into a folder, for a machine without a network: fetch_wheels.sh FOLDER [PYTHON-VERSION]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:?usage: fetch_wheels.sh FOLDER [PYTHON-VERSION]}"
version="${2:-3.12}"
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
# --ignore-requires-python: a rehearsal on an older Python takes all that it can; Flax asks for 3.12.
python3 -m pip download -q --no-deps --ignore-requires-python --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" -d "$folder" -r "$here/wheels.txt"
du -sh "$folder"
