#!/usr/bin/env bash
# The programs that the tests' cluster is made of: Debian packages, and what is compiled from Go modules (once, minutes).
#
# Must stay true: quick when nothing lacks; as somebody else than root, everything that lacks is named at once and the
# cluster's tests are skipped, or, with TESSERA_REQUIRE_CLUSTER=1, this fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

optional() {
    if [ "${TESSERA_REQUIRE_CLUSTER:-0}" = 1 ]; then printf 'setup: %s\n' "$*" >&2; exit 1; fi
    printf 'setup: %s (tests on a cluster are skipped)\n' "$*"
    exit 0
}

lacking() { # Debian packages whose programs are not there
    local PATH="$PATH:/usr/sbin:/sbin"
    command -v containerd > /dev/null || echo containerd
    command -v runc > /dev/null || echo runc
    [ -x /usr/lib/cni/bridge ] || echo containernetworking-plugins
    command -v ip > /dev/null || echo iproute2
    command -v iptables > /dev/null || echo iptables
    command -v ipset > /dev/null || echo ipset
    command -v conntrack > /dev/null || echo conntrack
    [ -x /bin/busybox ] || echo busybox-static
    command -v docker-registry > /dev/null || echo docker-registry
    command -v buildah > /dev/null || echo buildah
    command -v debootstrap > /dev/null || echo debootstrap
    command -v promtool > /dev/null || echo prometheus
}

.venv/bin/python tests/cluster/go_programs.py --if-possible
mapfile -t packages < <(lacking)
if [ "${#packages[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        optional "lacking: ${packages[*]}. As root: apt-get update && apt-get install -y ${packages[*]}"
    fi
    echo "setup: installing ${packages[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
fi
