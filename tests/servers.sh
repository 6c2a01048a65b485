# What the tests need besides Rust. Source this file and call `ensure_servers`, which installs what is missing
# where it can and names what it cannot install. It starts nothing: the tests start their own servers.

have() {
    command -v "$1" >/dev/null 2>&1
}

# Whether the program of a Debian package is there. Debian keeps those of PostgreSQL out of the path.
have_package() {
    case $1 in
        postgresql) have postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ;;
        *) have "$1" ;;
    esac
}

ensure_servers() {
    local package missing="" still=""
    for package in redis-server memcached openssl postgresql sqlite3; do
        have_package "$package" || missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        return 0
    fi
    if have apt-get && [ "$(id -u)" = 0 ]; then
        # Keeps the packages from starting a service of their own.
        local policy=/usr/sbin/policy-rc.d made=""
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=yes
        fi
        apt-get update -q >/dev/null 2>&1
        # shellcheck disable=SC2086 # a list of names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q $missing >/dev/null 2>&1
        [ -n "$made" ] && rm -f "$policy"
    fi
    for package in $missing; do
        have_package "$package" || still="$still $package"
    done
    if [ -n "$still" ]; then
        echo "missing:$still. Tests that need them are skipped, or fail with GROUPCACHE_REQUIRE_SERVERS=1." >&2
        echo "Debian, Ubuntu: apt-get install$still. macOS: brew install redis memcached openssl postgresql sqlite." >&2
        return 1
    fi
}
