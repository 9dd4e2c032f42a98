#!/usr/bin/env bash
# The default tests with the oldest versions that pyproject.toml allows (Python 3.11), and with the
# newest (Python 3.13), each in an environment of its own below .versions.
#   tools/test_versions.sh [oldest|newest|all] [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
which=${1:-all}
shift || true

interpreter() { # the interpreter of a version: on PATH, or where pyenv keeps it
  command -v "python$1" || ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python 2>/dev/null | tail -n 1
}

run() { # name, Python version, resolution
  local python
  python=$(interpreter "$2") || true
  if [ -z "$python" ]; then
    echo "-- $1: skipped, there is no Python $2 on this machine" >&2
    return 0
  fi
  echo "-- $1: Python $2, resolution $3"
  "$python" -m venv --clear ".versions/$1"
  .versions/"$1"/bin/python -m pip install --quiet uv
  .versions/"$1"/bin/uv pip install --quiet --python ".versions/$1/bin/python" \
    --resolution "$3" --editable . --group dev
  OMP_NUM_THREADS=1 ".versions/$1/bin/python" -m pytest -q -n auto \
    -m "not slow and not gpu and not network" "${@:4}"
}

case $which in
  oldest) run oldest 3.11 lowest-direct "$@" ;;
  newest) run newest 3.13 highest "$@" ;;
  all) run oldest 3.11 lowest-direct "$@" && run newest 3.13 highest "$@" ;;
  *) echo "error: '$which'; say oldest, newest or all" >&2 && exit 2 ;;
esac
