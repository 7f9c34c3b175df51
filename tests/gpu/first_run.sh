#!/usr/bin/env bash
# The first run on a machine with one NVIDIA GPU that has no network: @cpu and @cuda side by side, most important first.
#
#   tests/gpu/first_run.sh WHEELS OUT [PYTHON [STEP…]]
#
# WHEELS is a folder that fetch_wheels.sh filled; PYTHON (default: python3) has torch, jax, NumPy, pandas, matplotlib,
# click and jinja2. STEPs (default: all) are what a rehearsal plays.
#
# OUT gets two files, whole after every step: steps.tsv (step, exit code, seconds) and runs.tar.xz, below 16 MiB, with
# the run folders, each step's log and what the machine says of itself. A step's exit code is bncheck's: 0, 3 for what
# was asked for and not available, 124 or 137 for what its time limit ended; "-" is one for which no time was left.
# Steps do not depend on one another. SIGTERM ends the step that runs and still brings back what it has finished.
#
# BNCHECK_SLOWER=4 makes the limits four times as long: a rehearsal on two busy cores is no sixteen-core machine.
set -uo pipefail
wheels="${1:?usage: first_run.sh WHEELS OUT [PYTHON [STEP…]]}"
out="${2:?usage: first_run.sh WHEELS OUT [PYTHON [STEP…]]}"
python="$(command -v "${3:-python3}")" || { echo "there is no ${3:-python3}" >&2; exit 2; }
[[ "$python" = /* ]] || python="$PWD/$python"
wanted=("${@:4}")
root="$(cd "$(dirname "$0")/../.." && pwd)"
slower="${BNCHECK_SLOWER:-1}"
most=$((345 * slower))                # seconds, all steps together: ending the last one comes on top
largest=$((16 * 1024 * 1024 - 65536)) # bytes of the archive
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 2
work="$(mktemp -d)" || exit 2
mkdir "$work/runs" "$work/logs" "$work/pieces"
: >"$out/steps.tsv"

# --- what comes back

kept=() # names of the runs in the archive
name="" running=0 began=0 packing=0 ending=0
if command -v xz >/dev/null; then squeeze=(xz -3) packed=runs.tar.xz; else squeeze=(gzip) packed=runs.tar.gz; fi

# Each run is compressed once, as a piece of a tar file without its end (two blocks of 512): behind one another, and
# with what ends, the pieces are one archive.
archive() { # names of runs…
  local pieces=("${@/#/$work/pieces/}")
  cp "$out/steps.tsv" "$work/steps.tsv"
  { cat /dev/null "${pieces[@]}" && tar -b1 -cf - -C "$work" steps.tsv logs | "${squeeze[@]}"; } >"$out/$packed.part"
}
bring_back() { # the run of a step that ended, where it still fits
  local with=("${kept[@]}")
  packing=1
  if [ -d "$work/runs/$name" ]; then
    tar -b1 -cf - -C "$work" "runs/$name" | head -c -1024 | "${squeeze[@]}" >"$work/pieces/$name" && with+=("$name")
  fi
  archive "${with[@]}"
  if [ "$(wc -c <"$out/$packed.part")" -gt "$largest" ]; then
    echo "$name: its run folder is too large to come back ($(du -sh "$work/runs/$name" | cut -f1)); its log does" |
      tee -a "$work/logs/$name.log"
    archive "${kept[@]}"
  else
    kept=("${with[@]}")
  fi
  mv "$out/$packed.part" "$out/$packed" # at once: whoever kills this finds the archive of before or of now
  packing=0
  [ "$ending" = 0 ] || exit "$ending"
}
note() { # exit code
  printf '%s\t%s\t%s\n' "$name" "$1" "$((SECONDS - began))" >>"$out/steps.tsv"
  local said
  said="$(grep '^ verdict' "$work/logs/$name.log" || grep -v '^ *$' "$work/logs/$name.log" | tail -n 1)"
  printf '%-12s %4s %4s s  %s\n' "$name" "$1" "$((SECONDS - began))" "${said# verdict  }"
}
stop() { # exit code
  trap '' TERM INT HUP
  ending="$1"
  [ "$packing" = 0 ] || return 0
  if [ "$running" != 0 ]; then
    kill -TERM "$running" 2>/dev/null # timeout hands it on, and kills what does not end
    wait "$running"
    note "stopped"
    bring_back
  fi
  exit "$1"
}
trap 'rm -rf "$work"' EXIT
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP

tied=(env) # where it can be had: what kills this script alone ends the step as well
setpriv --pdeathsig TERM true 2>/dev/null && tied=(setpriv --pdeathsig TERM)

step() { # name, most seconds, command…
  name="$1" began="$SECONDS"
  local limit=$(($2 * slower)) left=$((most - SECONDS)) code=0
  shift 2
  [ "${#wanted[@]}" = 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  if [ "$left" -lt 8 ]; then
    echo "no time was left" >"$work/logs/$name.log"
    note "-"
    return 0
  fi
  (cd "$work" && exec "${tied[@]}" timeout -k 8 "$((limit < left ? limit : left))" "$@") >"$work/logs/$name.log" 2>&1 </dev/null &
  running="$!"
  wait "$running" || code="$?"
  running=0
  note "$code"
  bring_back
}

# --- a Python that has everything

install() { # into the folder carried: by pip, else as what wheels are, archives
  local options=(-q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check)
  "$1" -m pip --isolated install "${options[@]}" --find-links "$2" --target carried -r "$3" && return
  echo "pip did not do it: unpacking what is there"
  for wheel in "$2"/*.whl; do "$1" -m zipfile -e "$wheel" carried || return; done
}
export -f install
wheels="$(cd "$wheels" && pwd)" || exit 2
steps_wanted=("${wanted[@]}") wanted=()
step install 20 bash -c 'install "$@"' _ "$python" "$wheels" "$root/tests/gpu/wheels.txt"
wanted=("${steps_wanted[@]}")

# Workers run isolated (-I): they take the carried frameworks from a virtual environment that sees the machine's own.
# A virtual environment of a virtual environment sees the base alone: the packages of the one that was named as well.
venv="$work/venv" worker="$work/venv/bin/python"
purelib() { "$1" -c 'import sysconfig; print("\n".join({sysconfig.get_paths()[key] for key in ("purelib", "platlib")}))'; }
"$python" -m venv --system-site-packages --without-pip "$venv" >>"$work/logs/install.log" 2>&1 &&
  packages="$(purelib "$worker" | head -n 1)" &&
  echo "$work/carried" >"$packages/carried.pth" && purelib "$python" >"$packages/named.pth" ||
  { cat "$work/logs/install.log" >&2; exit 3; }

export PYTHONPATH="$root" PYTHONUNBUFFERED=1 BNCHECK_CACHE="$work/cache" COLUMNS=120
# Frameworks share one GPU: none takes all of its memory at its start. What JAX has compiled serves later steps too.
export XLA_PYTHON_CLIENT_PREALLOCATE=false TF_FORCE_GPU_ALLOW_GROWTH=true
export JAX_COMPILATION_CACHE_DIR="$work/jax" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
{
  date -u +%FT%TZ
  "$python" -V
  timeout -k 1 10 nvidia-smi || echo "nvidia-smi does not answer"
  env | grep -E '^(CUDA|CUDNN|NVIDIA|TORCH|PYTORCH|JAX|XLA|TF_)' | sort
} >"$work/logs/machine.log" 2>&1

given=(--python "torch=$worker" --python "flax=$worker" --python "keras=$worker")
on() { # targets… → words
  for target in "$@"; do printf -- '-t\n%s\n' "$target"; done
}
# --memory: a limit on address space, where CUDA reserves more than the machine has, would end what is on the CPU too.
played() { # name, most seconds, scenarios… -- targets…
  local step="$1" limit="$2" scenarios=() words
  shift 2
  while [ "$1" != -- ]; do scenarios+=("$1") && shift; done
  mapfile -t words < <(on "${@:2}")
  step "$step" "$limit" "$worker" -m bncheck run "${scenarios[@]}" "${words[@]}" "${given[@]}" --timeout 30 \
    --memory 100000 --no-report --fail-on never --out "$work/runs/$step"
}

# --- the steps: their limits are within six minutes together

both=(reference torch torch@cuda)
# The first minute: each framework on each device, once. It also warms what the others start from.
played first 60 all-ones --no-probe -- "${both[@]}" flax flax@cuda "keras[torch]@cuda" "keras[jax]@cuda"
played defaults 40 -- "${both[@]}"
# R0's second script: a batch of one. reference[cudnn] is what we say of a GPU; functional has no guard of its own.
played r0-tail 20 r0-tail --no-probe -- "${both[@]}" "reference[cudnn]" "torch[functional]" "torch[functional]@cuda"
# With the probes, which measure each target's conventions: they hold for the run folder that they lie in.
played counts 30 value-counts eval-one-sample offset layouts -- "${both[@]}" "torch[functional]@cuda" "torch[channels_last]@cuda"
# Float32 convolutions are TF32 on a GPU where nobody forbids it: what differs without it as well has another cause.
export NVIDIA_TF32_OVERRIDE=0
played r0-without-tf32 15 r0-tail --no-probe -- "${both[@]}"
unset NVIDIA_TF32_OVERRIDE
played precision 20 low-precision-long-run overflow --no-probe -- "${both[@]}"
played autocast 15 autocast --no-probe -- torch torch@cuda "torch[autocast]@cuda" "torch[autocast_float16]@cuda"
played flax 35 value-counts offset -- reference flax flax@cuda "flax[linen]@cuda"
played keras 35 value-counts offset -- reference "keras[torch]" "keras[torch]@cuda" "keras[jax]" "keras[jax]@cuda"
played replicas 20 replicas --no-probe -- reference "torch[ddp]" "torch[ddp]@cuda" "torch[ddp_local]@cuda"
played batches 25 "$root/tests/gpu/batches.toml" --set "network.model=$root/scenarios/layers/resnet.py:build" --no-probe -- torch torch@cuda
step doctor 10 "$worker" -m bncheck doctor

echo "$packed: $(wc -c <"$out/$packed") bytes in $SECONDS s"
