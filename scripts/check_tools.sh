#!/bin/sh
# Names every missing tool in one line before anything is built. Usage: check_tools.sh PYTHON
python=$1
missing=""
if ! command -v "$python" >/dev/null 2>&1; then
  case $python in
    python3) missing="$missing python3 (>= 3.11)," ;;
    *) missing="$missing $python (given as PYTHON; needs python >= 3.11)," ;;
  esac
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  missing="$missing python >= 3.11 (found $("$python" -c 'import platform; print(platform.python_version())'); try make PYTHON=python3.11),"
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  missing="$missing python3-venv,"
fi
command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 || missing="$missing g++,"
if [ -n "$missing" ]; then
  echo "missing:${missing%,}. On Debian: apt-get install python3 python3-venv g++ make" >&2
  exit 1
fi
