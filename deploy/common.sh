# Shell functions that deploy/run, deploy/example-flights and tests/run share: install what is missing,
# build, make the Python environment. Sourced by bash with `set -euo pipefail`; $root is the project's folder.

say() {
    printf '==> %s\n' "$*" >&2
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Packages of the named sections of deploy/packages.txt.
packages_of() {
    local section
    for section in "$@"; do
        awk -v want="[$section]" '
            /^\[/ { on = ($1 == want); found = found || on; next }
            on && NF && $1 !~ /^#/ { print $1 }
            END { exit !found }' "$root/deploy/packages.txt" ||
            fail "deploy/packages.txt has no section [$section]"
    done | sort -u
}

# Those of its arguments that aren't installed.
packages_missing() {
    local name
    for name in "$@"; do
        [[ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$name" 2>/dev/null)" == ii* ]] || echo "$name"
    done
}

apt() {
    local sudo=()
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || fail "installing packages needs root: run as root or install sudo"
        sudo=(sudo)
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 "$@"
}

# Installs what is missing of the named sections; the package lists are fetched only if they are
# absent or too old to be of use.
need_packages() {
    command -v dpkg-query >/dev/null ||
        fail "this is not Debian: install what deploy/packages.txt names and build with meson"
    local missing
    mapfile -t missing < <(packages_missing $(packages_of "$@"))
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! apt install --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
        apt update >"$log" 2>&1 || { cat "$log" >&2; fail "apt-get update failed"; }
        apt install --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
            { cat "$log" >&2; fail "apt-get install failed"; }
    fi
    rm -f "$log"
    mapfile -t missing < <(packages_missing "${missing[@]}")
    [[ ${#missing[@]} -eq 0 ]] || fail "still not installed: ${missing[*]}"
}

# build DIR MESON-OPTION...: configures where needed and builds. A folder whose configuration was
# interrupted is configured anew. One at a time for each folder.
build() {
    local dir=$1
    shift
    mkdir -p "$dir"
    (
        flock 9
        if [[ ! -f "$dir/build.ninja" ]]; then
            rm -rf "$dir/meson-private" "$dir/meson-info" "$dir/meson-logs"
            meson setup "$dir" "$root" "$@" || exit 1
        fi
        ninja -C "$dir"
    ) 9>"$dir/.lock"
}

# -O2 with the symbols that perf and backtraces need; ASSERT isn't NDEBUG's, so it stays in any case.
release_options=(--buildtype=release -Doptimization=2 -Ddebug=true -Db_ndebug=false)
asan_options=(--buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false)

# venv PIP-ARGUMENT...: the project's .venv with these packages. A stamp in it says what was
# installed, so that the second time costs nothing and an interrupted first time is done again.
venv() {
    local argument files=() stamp
    for argument in "$@"; do
        [[ ! -f "$argument" ]] || files+=("$argument")
    done
    stamp="$root/.venv/.done-$(printf '%s\n' "$@" | cat - "${files[@]}" | sha256sum | cut -c1-16)"
    [[ ! -f "$stamp" ]] || return 0
    mkdir -p "$root/.venv"
    (
        flock 9
        [[ -x "$root/.venv/bin/pip" ]] || python3 -m venv "$root/.venv"
        say "installing into .venv: $*"
        "$root/.venv/bin/pip" install --quiet --disable-pip-version-check "$@"
        touch "$stamp"
    ) 9>"$root/.venv/.lock"
}
