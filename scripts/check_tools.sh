#!/bin/sh
# Says in one line what this machine lacks, before anything is built. Usage: check_tools.sh PYTHON VENV
# What only a build needs is looked at while VENV/installed is not there. Must itself run with nothing but sh and python.
python=$1
venv=$2
room_mb=700  # of the environment (packages 450, pip's temporary files, the build)
packages="python3 python3-venv python3-dev g++ make"

fail() {
  echo "$1" >&2
  exit 1
}

# The first compiler that CMake would take.
compiler() {
  for name in "${CXX:-}" c++ g++ clang++; do
    if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
}

speaks_cpp20() {
  printf '#include <bit>\n#include <span>\nint main() { return std::popcount(0u); }\n' |
    "$1" -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1
}

has_headers() {
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

# Megabytes free where $1 lies, or nothing where that is not known.
free_mb() {
  "$python" -c 'import shutil, sys
print(shutil.disk_usage(sys.argv[1]).free >> 20)' "$1" 2>/dev/null
}

missing=""
if ! command -v "$python" >/dev/null 2>&1; then
  case $python in
    python3) missing="$missing python3 (>= 3.11)," ;;
    *) missing="$missing $python (given as PYTHON; needs python >= 3.11)," ;;
  esac
elif ! version=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null); then
  missing="$missing $python does not start,"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  missing="$missing python >= 3.11 (found $version; try make PYTHON=python3.11),"
elif [ ! -e "$venv/installed" ]; then
  "$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv,"
  has_headers || missing="$missing python3-dev (the headers of python $version),"
fi
if [ ! -e "$venv/installed" ]; then
  cxx=$(compiler)
  if [ -z "$cxx" ]; then
    missing="$missing g++,"
  elif ! speaks_cpp20 "$cxx"; then
    missing="$missing a compiler for C++20, g++ >= 11 (found $("$cxx" -dumpfullversion -dumpversion 2>/dev/null || echo "$cxx")),"
  fi
fi
[ -z "$missing" ] || fail "missing:${missing%,}. On Debian: apt-get install $packages"

if [ ! -e "$venv/installed" ]; then
  [ -w . ] || fail "$(pwd) cannot be written to: the environment $venv and the build are made in it"
  if ! touch .writable 2>/dev/null; then
    fail "$(pwd) cannot be written to: the disk is full or read-only"
  fi
  rm -f .writable
  for place in . "${TMPDIR:-/tmp}"; do
    free=$(free_mb "$place")
    if [ -n "$free" ] && [ "$free" -lt "$room_mb" ]; then
      fail "$free MB are free in $(cd "$place" && pwd), about $room_mb are needed for packages and the build"
    fi
  done
fi
