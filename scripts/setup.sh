#!/usr/bin/env bash
# Sets up .venv exactly as the two lock files say, and the system's programs that the tests use.
#
# Must stay true: running it again changes nothing and is quick; it installs system packages only as root, and without
# root names what is lacking; registries come from the settings that pip has (environment or pip's own files).
#
#   scripts/setup.sh                     for working and testing
#   TESSERA_REQUIRE_CLUSTER=1 ...        a missing program for the API server's tests is an error, not a message
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
readonly stamp="$venv/.set-up"
readonly locks=(requirements.lock scripts/bootstrap.lock)
readonly oldest=3.11 first_too_new=3.14
readonly oldest_go=1.21    # the first that fetches the newer Go a module asks for

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

install_packages() { # Debian packages by name; 1 when it can't
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || return 1
    say "installing $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

fits() { # is $1 a Python that the project takes?
    "$1" - "$oldest" "$first_too_new" 2> /dev/null << 'PYTHON'
import sys
low, high = (tuple(map(int, text.split("."))) for text in sys.argv[1:])
sys.exit(not low <= sys.version_info[:2] < high)
PYTHON
}

find_python() {
    local name
    for name in python3 python3.11 python3.12 python3.13; do
        if fits "$name"; then command -v "$name"; return; fi
    done
    return 1
}

packages_of_python() { # Debian packages without which there is no .venv
    local python
    if fits "$venv/bin/python"; then return; fi
    if ! python=$(find_python); then echo python3 python3-venv; return; fi
    "$python" -c 'import ensurepip, venv' 2> /dev/null || echo "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')-venv"
}

make_venv() {
    local python
    if fits "$venv/bin/python"; then return; fi
    python=$(find_python) || fail "no Python from $oldest up to, without, $first_too_new (tried python3, python3.11 ... python3.13)"
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

pip_setting() { # the value of one of pip's settings, empty if it has none; from the environment first, as pip does
    local variable="PIP_${1^^}" section
    variable=${variable//-/_}
    if [ -n "${!variable:-}" ]; then printf '%s' "${!variable}"; return; fi
    for section in install global; do
        if "$venv/bin/python" -m pip config get "$section.$1" 2> /dev/null; then return; fi
    done
}

adopt_pip_settings() { # uv reads none of pip's settings; what uv was told itself stays
    local value
    value=$(pip_setting index-url); [ -z "$value" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$value}"
    value=$(pip_setting extra-index-url); [ -z "$value" ] || export UV_INDEX="${UV_INDEX:-$value}"
    value=$(pip_setting cert); [ -z "$value" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$value}"
    value=$(pip_setting default-timeout); [ -z "$value" ] || export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-$value}"
    value=$(pip_setting find-links)
    [ -z "$value" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-${value//[[:space:]]/,}}"
}

install_locked() {
    export VIRTUAL_ENV="$PWD/$venv" PIP_DISABLE_PIP_VERSION_CHECK=1
    "$venv/bin/python" -m pip --version > /dev/null 2>&1 || "$venv/bin/python" -m ensurepip > /dev/null
    adopt_pip_settings
    "$venv/bin/python" -m pip install --quiet --require-hashes -r scripts/bootstrap.lock
    say "installing what ${locks[*]} name"
    "$venv/bin/uv" pip sync --quiet --require-hashes "${locks[@]}"
    "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
}

fingerprint() { # what the environment depends on; the place too, since scripts in a venv name their interpreter
    { sha256sum "${locks[@]}" pyproject.toml; pwd; "$venv/bin/python" --version; } | sha256sum | cut -d ' ' -f 1
}

go_fits() {
    local found
    found=$(go env GOVERSION 2> /dev/null) || return 1
    [ "$(printf '%s\n' "$oldest_go" "${found#go}" | sort -V | head -n 1)" = "$oldest_go" ]
}

packages_of_tests() { # Debian packages whose programs the tests use and that are not there
    local PATH="$PATH:/usr/sbin:/sbin"
    command -v g++ > /dev/null || echo g++              # torch.compile on a CPU
    command -v iptables > /dev/null || echo iptables    # the network faults of the tests
    command -v openssl > /dev/null || echo openssl      # the API server's certificates
    command -v go > /dev/null || echo golang-go         # the API server itself
}

set_up_system() { # everything that lacks at once; as somebody else than root, it is named at once
    local needed wanted
    read -ra needed <<< "$(packages_of_python)"
    mapfile -t wanted < <(packages_of_tests)
    local lacking=("${needed[@]}" "${wanted[@]}")
    if [ "${#lacking[@]}" -gt 0 ] && ! install_packages "${lacking[@]}"; then
        local remedy="lacking: ${lacking[*]}. As root: apt-get update && apt-get install -y ${lacking[*]}"
        if [ "${#needed[@]}" -gt 0 ]; then fail "$remedy"; fi
        optional "$remedy"
    fi
    go_fits || optional "no Go from $oldest_go up, which compiles the API server that the tests use"
}

optional() { # without these the tests that need them are skipped
    if [ "${TESSERA_REQUIRE_CLUSTER:-0}" = 1 ]; then fail "$*"; fi
    say "$* (tests that need it are skipped)"
}

set_up_system
make_venv
if [ "$(cat "$stamp" 2> /dev/null)" != "$(fingerprint)" ]; then
    rm -f "$stamp"
    install_locked
    fingerprint > "$stamp"
    say "ready"
fi
