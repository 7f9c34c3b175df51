#!/usr/bin/env bash
# The first run on a machine with one NVIDIA GPU that has no network: @cpu and @cuda side by side, most important first.
#
#   tests/gpu/first_run.sh WHEELS OUT [PYTHON [STEP…]]
#
# WHEELS is a folder that fetch_wheels.sh filled; PYTHON (default: python3) has torch, jax, NumPy, pandas, matplotlib,
# click and jinja2. STEPs (default: all) are what a rehearsal plays. OUT gets a log per step, steps.tsv (step, exit code, seconds) and runs.tar.gz, the run folders. Each
# step has its time limit, all of them together stay below six minutes, and one that fails does not stop the next. A
# step's exit code is bncheck's: 1 is a finding, 3 what was asked for and not available.
set -uo pipefail
wheels="${1:?usage: first_run.sh WHEELS OUT [PYTHON]}"
out="${2:?usage: first_run.sh WHEELS OUT [PYTHON]}"
python="$(command -v "${3:-python3}")" || { echo "there is no ${3:-python3}" >&2; exit 2; }
wanted=("${@:4}")
root="$(cd "$(dirname "$0")/../.." && pwd)"
mkdir -p "$out/runs"
out="$(cd "$out" && pwd)"

site="$(mktemp -d)/site"
"$python" -m pip install -q --no-index --no-deps --no-cache-dir --find-links "$wheels" --target "$site" \
  -r "$root/tests/gpu/wheels.txt" >"$out/install.log" 2>&1 || { cat "$out/install.log" >&2; exit 3; }

# Workers run isolated (-I): they take the carried frameworks from a virtual environment that sees the machine's own.
venv="$(dirname "$site")/venv"
"$python" -m venv --system-site-packages --without-pip "$venv" >>"$out/install.log" 2>&1 || exit 3
packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
echo "$site" >"$packages/carried.pth"
worker="$venv/bin/python"
# A virtual environment of a virtual environment sees the base alone: the packages of the one that was named as well.
"$python" -c 'import sysconfig; print("\n".join({sysconfig.get_paths()[key] for key in ("purelib", "platlib")}))' \
  >"$packages/named.pth"

bncheck() { PYTHONPATH="$root:$site" "$worker" -m bncheck "$@"; }
given=(--python "torch=$worker" --python "flax=$worker" --python "keras=$worker")
both=(-t reference -t torch -t torch@cuda)

: >"$out/steps.tsv"
step() { # name, most seconds, command…
  local name="$1" limit="$2" began="$SECONDS" code=0
  shift 2
  [ "${#wanted[@]}" = 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  ( cd "$out" && export -f bncheck && export root site worker && timeout "$limit" bash -c 'bncheck "$@"' _ "$@" ) \
    >"$out/$name.log" 2>&1 || code=$?
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - began))" | tee -a "$out/steps.tsv"
}
played() { # name, most seconds, scenarios and targets…
  local name="$1" limit="$2"
  shift 2
  step "$name" "$limit" run "$@" "${given[@]}" --no-report --fail-on never --out "$out/runs/$name"
}

step doctor 20 doctor
played defaults 75 "${both[@]}"
step conventions 60 conventions "${both[@]}" "${given[@]}"
played r0-tail 30 r0-tail "${both[@]}" --no-probe
played counts 30 value-counts offset layouts "${both[@]}" --no-probe
played precision 40 low-precision-long-run autocast overflow "${both[@]}" --no-probe
played flax 45 all-ones value-counts offset -t reference -t flax -t flax@cuda --no-probe
played keras 45 all-ones offset -t reference -t "keras[torch]" -t "keras[jax]" --no-probe
played single 20 eval-one-sample replicas -t torch -t torch@cuda --no-probe
played batches 60 batch-invariance -t torch -t torch@cuda --no-probe

# A run of many whole networks is larger than all others together: the small ones are what has to come back.
small=()
for run in "$out"/runs/*/; do
  [ "$(du -sk "$run" | cut -f1)" -le 12288 ] && small+=("runs/$(basename "$run")") || echo "too large to bring back: $run"
done
tar -czf "$out/runs.tar.gz" -C "$out" "${small[@]}"
size="$(wc -c <"$out/runs.tar.gz")"
echo "runs.tar.gz: $size bytes in $SECONDS s"
[ "$size" -lt $((16 * 1024 * 1024)) ] || { echo "runs.tar.gz is larger than 16 MiB" >&2; exit 1; }
