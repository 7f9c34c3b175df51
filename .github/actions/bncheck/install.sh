#!/usr/bin/env bash
# Installs what $BNCHECK_INSTALL names (nothing when it is empty) and says which version is there.
set -euo pipefail
if [ -n "${BNCHECK_INSTALL:-}" ]; then
  python -m pip install --quiet --disable-pip-version-check "$BNCHECK_INSTALL"
fi
bncheck --version
