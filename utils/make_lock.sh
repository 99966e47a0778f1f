#!/usr/bin/env bash
# Writes requirements.lock: every package of a development environment, at one release, with the hashes of its files.
set -euo pipefail

usage="Usage: utils/make_lock.sh
e.g.: make lock

Resolves what setup.py asks for, for every Python and platform that it supports,
and writes requirements.lock at the root of the repository. Downloads no
packages, only what an index says of them. Needs uv: pip install -e '.[supply]'"

case "$#:${1:-}" in
  0:) ;;
  1:--help | 1:-h) echo "$usage"; exit 0 ;;
  *:--*) echo "make_lock.sh: error: unknown option $1" >&2; exit 1 ;;
  *) echo "$usage" >&2; exit 1 ;;
esac

cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python3 -m uv --version >/dev/null 2>&1 || {
  echo "make_lock.sh: error: no uv here; run: python3 -m pip install -e '.[supply]'" >&2
  exit 1
}

new=$(mktemp .requirements.lock.XXXXXX.tmp)
trap 'rm -f -- "$new"' EXIT
cat >"$new" <<'end'
# Every package of a development environment, with the hashes of its files: made from setup.py by "make lock" (uv pip
# compile --universal), to be installed with "utils/make_env.sh --locked", that is pip install --require-hashes.
#
# It is an option, and setup.py's ranges are the default: a hash is that of one build. Those of torch here are of the
# package index, whose builds for Linux on x86-64 need the CUDA libraries below. A wheel of torch from elsewhere, such as
# one for the CPU alone, has another hash: pip refuses it with this file, and takes it without.
#
# The address of no index is written here, so that a mirror serves as well; a file that is not the same is refused.
end
python3 -m uv pip compile --quiet --universal --python-version 3.10 --extra dev --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header --no-annotate setup.py >>"$new"
if grep -n '://' "$new" >&2; then
  echo "make_lock.sh: error: an address in the lock, see above; use an index without options for single packages" >&2
  exit 1
fi
chmod 644 -- "$new"
mv -- "$new" requirements.lock
trap - EXIT
echo "make_lock.sh: requirements.lock has $(grep -c '^[a-z]' requirements.lock) packages"
