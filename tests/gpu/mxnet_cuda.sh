#!/usr/bin/env bash
# MXNet on CUDA, tried last and on its own: never run on a GPU so far. It says what is missing before it runs.
#
#   tests/gpu/mxnet_cuda.sh OUT PYTHON
#
# PYTHON (3.8 to 3.11: NumPy 1.23, which MXNet 1.9.1 needs, has no wheel for 3.12) has an mxnet-cu* wheel. On a machine
# with a package index, bncheck env create mxnet@cuda makes such an environment, with the wheels of CUDA's libraries; its
# packages stand in REQUIREMENTS of bncheck/worker/backends/mxnet.py. They are gigabytes: first_run.sh carries none.
#
# Which wheel: mxnet-cu112 (1.9.1, CUDA 11.2), for cards up to compute capability 8.6. The newest, mxnet-cu117 of 2022, is
# older than cards of 9.0 (H100) too: there a kernel has to be compiled by the driver from what the wheel holds for older
# cards, which takes minutes or fails with "no kernel image is available for execution on the device".
#
# Libraries: libmxnet.so asks for them by name when it is imported. In reports of others these were missing:
#   libcudart.so.11.0 libnvrtc.so.11.2 libcusolver.so.11 libcudnn.so.8   apache/mxnet#20279
#   libnccl.so.2                                                        apache/mxnet#21074
#   libquadmath.so.0                                                    the wheel's own page: apt-get install libquadmath0
# This reads the list from the library that is there, and names the package of each that is not found.
#
# OUT gets libraries.txt, run.log and the run folder; 0 where it ran on the GPU, 3 where something was missing.
set -uo pipefail
out="${1:?usage: mxnet_cuda.sh OUT PYTHON}"
python="$(command -v "${2:?usage: mxnet_cuda.sh OUT PYTHON}")" || { echo "there is no $2" >&2; exit 2; }
[[ "$python" = /* ]] || python="$PWD/$python"
root="$(cd "$(dirname "$0")/../.." && pwd)"
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 2

found="$("$python" -I -c '
import glob, importlib.util, os, sys
spec = importlib.util.find_spec("mxnet")
places = spec.submodule_search_locations if spec else []
print(next((os.path.join(place, "libmxnet.so") for place in places), ""))
print(":".join(path for each in sys.path for path in glob.glob(os.path.join(each, "nvidia", "*", "lib"))))
')" || { echo "$python does not start" >&2; exit 2; }
library="$(head -n 1 <<<"$found")" beside="$(tail -n +2 <<<"$found")"
[ -f "$library" ] || { echo "$python has no MXNet: bncheck env create mxnet@cuda makes one that has" >&2; exit 3; }

package() { # library → what to install
  case "$1" in
    libcudart.*) echo "pip install 'nvidia-cuda-runtime-cu11>=11.7,<12'" ;;
    libcublas*) echo "pip install 'nvidia-cublas-cu11>=11.10,<12'" ;;
    libcudnn*) echo "pip install 'nvidia-cudnn-cu11>=8.9,<9'" ;;
    libnvrtc*) echo "pip install nvidia-cuda-nvrtc-cu11" ;;
    libcuda.so.1) echo "the NVIDIA driver (in a container: docker run --gpus all)" ;;
    libcufft* | libcurand* | libcusolver* | libnccl*) echo "pip install nvidia-$(sed 's/^lib//; s/[.]so.*//' <<<"$1")-cu11" ;;
    libnvToolsExt*) echo "pip install nvidia-nvtx-cu11" ;;
    libquadmath*) echo "apt-get install libquadmath0" ;;
    libgfortran*) echo "apt-get install libgfortran5" ;;
    *) echo "nobody here knows its package" ;;
  esac
}
LD_LIBRARY_PATH="$beside${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ldd "$library" >"$out/libraries.txt" 2>&1
lacking=0
while read -r name; do
  lacking=1
  echo "$name is missing: $(package "$name")"
done < <(sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p' "$out/libraries.txt" | sort -u)
grep -q libcuda "$out/libraries.txt" || { lacking=1 && echo "$library is a build without CUDA: pip install mxnet-cu112==1.9.1"; }
[ "$lacking" = 0 ] || echo "it is tried all the same: bncheck says what MXNet says"

# The probes, too: they measure the conventions of both devices.
export PYTHONPATH="$root"
timeout -k 8 240 "${BNCHECK_PYTHON:-python3}" -m bncheck run all-ones value-counts r0-tail -t reference -t mxnet -t mxnet@cuda \
  --python "mxnet=$python" --timeout 120 --memory 100000 --no-report --fail-on never --out "$out/run" >"$out/run.log" 2>&1
code="$?"
cat "$out/run.log"
exit "$code"
