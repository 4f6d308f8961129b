#!/usr/bin/env bash
# Writes uv.lock and the hosts' hash-locked lists anew, after a change in pyproject.toml or of SUPERVISOR below.
set -euo pipefail

cd "$(dirname "$0")/.."
SUPERVISOR=supervisor==4.3.0
uv=.venv/bin/uv
[[ -x $uv ]] || { echo "lock: $uv is missing: run make setup first." >&2; exit 1; }

"$uv" lock --system-certs --quiet
"$uv" export --quiet --locked --no-dev --no-emit-project --no-annotate --no-header \
  --output-file roles/worker/files/requirements.txt
echo "$SUPERVISOR" | "$uv" pip compile - --system-certs --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-header --output-file roles/supervisor/files/requirements.txt
