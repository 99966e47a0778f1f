#!/usr/bin/env bash
# Makes the Python environment .venv at the root of the repository, once; the scripts do it by themselves when they need
# it (utils/env.sh).  A run that was killed is completed by the next one.
set -euo pipefail

usage="Usage: utils/make_env.sh [--locked]
e.g.: utils/make_env.sh

Makes the Python environment .venv of this repository and installs the package
and all it needs there (about 5 GB). Does nothing if .venv is complete, or if
the active Python environment has everything already. To begin again:
rm -rf .venv

With --locked it installs the releases of requirements.lock, whose files must
have the hashes written there: not for a build of torch from elsewhere."

locked=
case "$#:${1:-}" in
  0:) ;;
  1:--locked) locked=yes ;;
  1:--help | 1:-h) echo "$usage"; exit 0 ;;
  *) echo "$usage" >&2; exit 1 ;;
esac

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
unfinished=$venv/.unfinished # there from the first moment to the last: this script made .venv and may remake it
compiled=$venv/.compiled     # there once the byte code is; an environment of before byte code was made has none
need_gb=9                    # 5 GB installed, and as much as 3 GB of downloads beside them

say() { echo "make_env.sh: $*"; }
die() { echo "make_env.sh: error: $*" >&2; exit 1; }

stamp_text() { printf '%s\n' "$root" && cat -- "$root/setup.py"; }

is_installed() { [[ -x $venv/bin/python3 && -f $venv/.done ]] && stamp_text | cmp -s - "$venv/.done"; }

# Prints the first Python that the pinned wheels exist for.
find_python() {
  local name path
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    path=$(type -P "$name") || continue
    if "$path" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      echo "$path"
      return
    fi
  done
  return 1
}

# Empties .venv but keeps the mark, so that a kill in the middle leaves something this script may touch again.
clear_venv() {
  find "$venv" -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf -- {} +
}

make_venv() {
  local python
  python=$(find_python) ||
    die "no Python 3.10 to 3.14 on PATH (python3 is $(python3 --version 2>&1 || true)); install one, e.g. apt install python3"
  if [[ ! -d $venv ]]; then
    local free_kb
    free_kb=$(df -Pk -- "$root" | awk 'NR == 2 { print $4 }')
    ((free_kb >= need_gb * 1000 * 1000)) ||
      die "$root: $((free_kb / 1000 / 1000)) GB free, $need_gb GB needed; make room, or activate an environment that has the package"
  fi
  say "making $venv with $("$python" --version)"
  mkdir -p -- "$venv"
  : >"$unfinished"
  # The same search path as later: what a PYTHONPATH or a user's site directory holds must not count as installed.
  if "$python" -I -c 'import venv, ensurepip' 2>/dev/null; then
    "$python" -I -m venv -- "$venv"
  elif "$python" -m virtualenv --version >/dev/null 2>&1; then
    "$python" -m virtualenv --quiet -- "$venv"
  elif type -P virtualenv >/dev/null; then
    virtualenv --quiet --python "$python" -- "$venv"
  else
    rm -rf -- "$venv"
    die "$python has neither venv with ensurepip nor virtualenv; apt install python3-venv (Debian, Ubuntu)"
  fi
}

install_packages() {
  say "installing the packages that setup.py names: about 3 GB to download, 5 GB on disk, a few minutes"
  say "(the package index's torch is a CUDA build and works without a GPU; the step 'Installing collected packages' shows no bar)"
  # Downloads go through a directory in .venv: /tmp is often too small, and nothing is left there if we are killed.
  rm -rf -- "$venv/tmp"
  mkdir -- "$venv/tmp"
  # pip compiles on one processor only; compile_packages does it on all.
  local pip=("$venv/bin/python3" -m pip install --no-input --disable-pip-version-check --no-compile)
  (
    cd -- "$root"
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER
    export TMPDIR=$venv/tmp
    if [[ -n $locked ]]; then
      "${pip[@]}" --require-hashes --no-deps -r requirements.lock &&
        "${pip[@]}" --no-deps --no-build-isolation -e . # built with the setuptools of the lock
    else # the pin first: pip would fetch the newest torch before it comes to it
      pin=$(grep -om1 'torch==[0-9.]*' setup.py || true)
      "${pip[@]}" ${pin:+"$pin"} -e '.[dev]'
    fi
  ) || die "pip could not install the packages, see above; run utils/make_env.sh again to go on from here"
  rm -rf -- "$venv/tmp"
}

# Where Python may not write byte code (PYTHONDONTWRITEBYTECODE, as in many containers), each process would compile torch,
# scipy and scikit-learn again, which takes seconds.  Packages hold files that are no Python of this version, on purpose:
# what does not compile is no failure.
compile_packages() {
  say "compiling to byte code, once (half a minute)"
  (cd / && unset PYTHONPATH && "$venv/bin/python3" -W ignore -m compileall -qq -j 0 -- "$venv/lib" "$root/kaldi_uq") || true
  : >"$compiled"
}

check() { (cd / && unset PYTHONPATH && "$venv/bin/python3" "$root/utils/check_env.py" --import); }

# Only one at a time: a second call waits and then finds the work done.
if type -P flock >/dev/null; then
  exec 9<"$root"
  flock -n 9 || { say "another call is making $venv; waiting for it"; flock 9; }
fi

if is_installed; then
  [[ -f $compiled ]] || compile_packages
  say "$venv is complete"
  exit 0
fi
if [[ -z $locked ]] && type -P python3 >/dev/null &&
  (cd / && python3 "$root/utils/check_env.py" --import) >/dev/null 2>&1 &&
  [[ $(type -P python3) != "$venv/bin/python3" ]]; then
  say "$(type -P python3) has the package and all it needs; it is used as it is"
  exit 0
fi

if [[ -f $unfinished ]]; then
  say "$venv is not complete: going on with it"
fi
if [[ -f $venv/.done ]]; then # ours, for another setup.py or another place
  : >"$unfinished"
  rm -f -- "$venv/.done" "$compiled"
fi
if ! "$venv/bin/python3" -m pip --version >/dev/null 2>&1; then
  if [[ -f $unfinished ]]; then
    clear_venv
  elif [[ -e $venv ]]; then
    rmdir -- "$venv" 2>/dev/null || die "$venv was not made by this script and has no working pip; move it away"
  fi
  make_venv
fi
install_packages
if ! problem=$(check); then
  # An installation that was killed at the wrong moment can look whole to pip and not be.
  [[ -f $unfinished ]] || die "$venv: $problem; move $venv away and run utils/make_env.sh again"
  say "$problem; making $venv anew"
  clear_venv
  make_venv
  install_packages
  problem=$(check) || die "$venv: $problem"
fi
stamp_text >"$venv/.done.tmp"
mv -- "$venv/.done.tmp" "$venv/.done"
rm -f -- "$unfinished"
compile_packages
say "$venv is complete ($(du -sh -- "$venv" | cut -f1))"
