#!/usr/bin/env bash
# Installs what this checkout needs: Debian packages (listed, and asked for once), then .venv from uv.lock.
# Usage: testbed/bootstrap.sh [GROUP...]   groups: python (always), lint, containers, browser
# Quick when everything is there. Without a terminal, or with CI set, it installs without asking.
set -euo pipefail

cd "$(dirname "$0")/.."
uv_version=0.13.9
system=
cache="${XDG_CACHE_HOME:-$HOME/.cache}/mail-worker-testbed"

fail() {
  echo "bootstrap: $*" >&2
  exit 1
}

check_system() {
  local release="${OS_RELEASE_FILE:-/etc/os-release}" id version
  [[ -r $release ]] || fail "this system has no $release: use Debian 12 or 13, or Ubuntu 24.04."
  # shellcheck source=/dev/null
  id=$(. "$release" && echo "${ID:-unknown}")
  # shellcheck source=/dev/null
  version=$(. "$release" && echo "${VERSION_ID:-unknown}")
  system="$id $version"
  case "$system" in
    "debian 12" | "debian 13" | "ubuntu 24.04") ;;
    *) fail "this system is $id $version, but the test bed runs on Debian 12 or 13, or Ubuntu 24.04." ;;
  esac
}

packages_of() {
  case "$1" in
    python) echo git openssh-client ca-certificates python3 python3-venv ;;
    lint) echo shellcheck nftables kmod ;;
    containers)
      echo podman podman-compose runc netavark iptables aardvark-dns mmdebstrap debian-archive-keyring zstd iproute2 prometheus
      # Many have a newer Node from elsewhere, with npm in it; Debian's would come beside it.
      command -v node >/dev/null || echo nodejs
      command -v npm >/dev/null || echo npm
      ;;
    # Ubuntu's is a snap, which an unattended machine can't always have: Playwright brings one there.
    browser) [[ $system != debian* ]] || echo chromium fonts-dejavu-core ;;
    *) fail "there is no group '$1': use python, lint, containers or browser." ;;
  esac
}

missing_packages() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

# Shows a command's output only if it fails.
quietly() {
  local output
  output=$("$@" 2>&1) || {
    echo "$output" >&2
    return 1
  }
}

as_root() {
  if [[ $EUID == 0 ]]; then
    "$@"
  else
    sudo "$@"
  fi
}

install_packages() {
  local -a wanted=() missing=() more=()
  local group names answer
  for group in python "$@"; do
    names=$(packages_of "$group")
    read -rd '' -a more <<<"$names" || true
    wanted+=("${more[@]}")
  done
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  ((${#missing[@]})) || return 0
  [[ $EUID == 0 ]] || command -v sudo >/dev/null || fail "packages are missing (${missing[*]}): run it as root, or install sudo."
  echo "These Debian packages are missing and will be installed with apt-get: ${missing[*]}"
  if [[ -t 0 && -z ${CI:-} ]]; then
    read -r -p "Go on? [Y/n] " answer
    [[ -z $answer || $answer == [Yy]* ]] || fail "nothing was installed."
  fi
  quietly as_root apt-get update -qq || fail "apt-get update failed: see above."
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends "${missing[@]}" ||
    fail "apt-get couldn't install ${missing[*]}: see above."
}

make_venv() {
  local python
  for python in /usr/bin/python3 python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    python=
  done
  [[ $python ]] || fail "Python 3.11 or newer is needed, but /usr/bin/python3 is older."
  if [[ ! -x $cache/uv-$uv_version/bin/uv ]]; then
    echo "Installing uv $uv_version into $cache"
    rm -rf "$cache/uv-$uv_version"
    "$python" -m venv "$cache/uv-$uv_version"
    quietly "$cache/uv-$uv_version/bin/pip" install --quiet --disable-pip-version-check "uv==$uv_version" ||
      fail "uv can't be installed from PyPI: see above."
  fi
  UV_PYTHON_DOWNLOADS=never "$cache/uv-$uv_version/bin/uv" sync --system-certs --quiet --locked --python "$python" ||
    fail "the Python packages can't be installed: see above."
}

install_browser() {
  command -v chromium >/dev/null || quietly .venv/bin/playwright install --with-deps chromium ||
    fail "no Chromium could be installed: see above."
}

check_system
install_packages "$@"
make_venv
[[ " $* " != *" browser "* ]] || install_browser
