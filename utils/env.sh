# shellcheck shell=bash
# Puts this package's Python on PATH: afterwards python3 and kaldi-uq belong to one environment that has all it needs.
# To be sourced, by path.sh above all:
#
#   . utils/env.sh
#
# In a clone, the first of these that has the package and its dependencies is used, as it is:
#   1. an environment that is active: VIRTUAL_ENV, CONDA_PREFIX or PYTHONPATH is set;
#   2. the one of KALDI_UQ_PYTHON, the path of a python3, which kaldi-uq init writes into path.sh;
#   3. .venv at the root of the repository, complete, compiled and made for this setup.py;
#   4. python3 itself, as in a container.
# If there is none, utils/make_env.sh makes .venv.  When all is there nothing is downloaded and nothing imported.
#
# In an installed package these scripts belong to its environment, and so the first that has this very package is used:
#   1. python3;   2. the one of KALDI_UQ_PYTHON;   3. one above the directory that the package is in.
# If there is none, a python3 that has another copy of the package; if it has none, that is an error.

_kaldi_uq_root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Whether .venv is complete: its stamp holds the place and the setup.py that it was made for.  Without byte code it is to be
# completed, except where nobody can.
_kaldi_uq_venv_is_current() {
  local venv=$1/.venv
  [[ -f $venv/.done && -x $venv/bin/python3 && "$(<"$venv/.done")" == "$1"$'\n'"$(<"$1/setup.py")" ]] &&
    [[ -f $venv/.compiled || ! -w $venv ]]
}

# _kaldi_uq_check PYTHON ROOT [options of check_env.py]: says what this Python lacks, and fails if that is anything.
# From /: neither the working directory nor a relative PYTHONPATH counts.
_kaldi_uq_check() {
  type -P "$1" >/dev/null || { echo "there is no $1"; return 1; }
  (cd / && "$1" "$2/utils/check_env.py" "${@:3}" 2>/dev/null)
}

_kaldi_uq_use_venv() {
  export VIRTUAL_ENV="$1/.venv" PATH="$1/.venv/bin:$PATH"
  unset PYTHONHOME
}

# _kaldi_uq_use_python ROOT [BIN]: the python3 on PATH, or that of the directory BIN
_kaldi_uq_use_python() {
  if [[ -n ${2:-} ]]; then
    export PATH="$2:$PATH"
    unset PYTHONHOME VIRTUAL_ENV
    [[ ! -f $2/../pyvenv.cfg ]] || export VIRTUAL_ENV="${2%/bin}"
  fi
  export PATH="$1/utils/bin:$PATH"
}

# _kaldi_uq_recorded ROOT [options of check_env.py]: the directory of KALDI_UQ_PYTHON, if its python3 is complete
_kaldi_uq_recorded() {
  [[ -n ${KALDI_UQ_PYTHON:-} ]] || return 1
  _kaldi_uq_check "$(dirname -- "$KALDI_UQ_PYTHON")/python3" "$@" >/dev/null && dirname -- "$KALDI_UQ_PYTHON"
}

_kaldi_uq_choose() {
  local root=$1 active=${VIRTUAL_ENV:-}${CONDA_PREFIX:-}${PYTHONPATH:-} bin
  if [[ -n $active && ${VIRTUAL_ENV:-} != "$root/.venv" ]] && _kaldi_uq_check python3 "$root" >/dev/null; then
    _kaldi_uq_use_python "$root"
  elif bin=$(_kaldi_uq_recorded "$root"); then
    _kaldi_uq_use_python "$root" "$bin"
  elif _kaldi_uq_venv_is_current "$root"; then
    _kaldi_uq_use_venv "$root"
  elif [[ -z $active ]] && _kaldi_uq_check python3 "$root" >/dev/null; then
    _kaldi_uq_use_python "$root"
  else
    # to stderr: the output of the script that sources this file may be data
    bash "$root/utils/make_env.sh" >&2 || return 1
    _kaldi_uq_use_venv "$root"
  fi
}

_kaldi_uq_choose_installed() {
  local root=$1 place=$1 bin problem this=(--package "$(dirname -- "$1")")
  if problem=$(_kaldi_uq_check python3 "$root" "${this[@]}"); then
    _kaldi_uq_use_python "$root"
    return
  elif bin=$(_kaldi_uq_recorded "$root" "${this[@]}"); then
    _kaldi_uq_use_python "$root" "$bin"
    return
  fi
  while place=$(dirname -- "$place") && [[ $place != / ]]; do
    [[ -x $place/bin/python3 ]] || continue
    if problem=$(_kaldi_uq_check "$place/bin/python3" "$root" "${this[@]}"); then
      _kaldi_uq_use_python "$root" "$place/bin"
      return
    fi
    problem="$place/bin/python3: $problem"
  done
  if _kaldi_uq_check python3 "$root" >/dev/null; then
    _kaldi_uq_use_python "$root"
    return
  fi
  echo "$root/utils/env.sh: error: no Python here has this package and all it needs (${problem:-python3 does not run});" \
    "activate the environment where it is installed, or, in another one that has it, run: kaldi-uq link ." >&2
  return 1
}

# A script that runs another need not look again: the choice travels in the environment, with the python3 it was made for.
if [[ ${KALDI_UQ_ENV:-} != "$_kaldi_uq_root:$(type -P python3 || true)" ]]; then
  if [[ -f $_kaldi_uq_root/setup.py ]]; then
    _kaldi_uq_choose "$_kaldi_uq_root" || return 1
  else
    _kaldi_uq_choose_installed "$_kaldi_uq_root" || return 1
  fi
  KALDI_UQ_ENV="$_kaldi_uq_root:$(type -P python3)"
  export KALDI_UQ_ENV
fi
unset -f _kaldi_uq_venv_is_current _kaldi_uq_check _kaldi_uq_use_venv _kaldi_uq_use_python _kaldi_uq_recorded
unset -f _kaldi_uq_choose _kaldi_uq_choose_installed
unset _kaldi_uq_root
