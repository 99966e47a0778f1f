# shellcheck shell=bash
# Puts this repository's Python on PATH: afterwards python3 and kaldi-uq belong to one environment that has all it needs.
# To be sourced, by path.sh above all:
#
#   . utils/env.sh
#
# The first of these that has the package and its dependencies is used, as it is:
#   1. an environment that is active: VIRTUAL_ENV, CONDA_PREFIX or PYTHONPATH is set;
#   2. .venv at the root of the repository, complete, compiled and made for this setup.py;
#   3. python3 itself, as in a container.
# If there is none, utils/make_env.sh makes .venv.  When all is there nothing is downloaded and nothing imported.

_kaldi_uq_root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Whether .venv is complete: its stamp holds the place and the setup.py that it was made for.  Without byte code it is to be
# completed, except where nobody can.
_kaldi_uq_venv_is_current() {
  local venv=$1/.venv
  [[ -f $venv/.done && -x $venv/bin/python3 && "$(<"$venv/.done")" == "$1"$'\n'"$(<"$1/setup.py")" ]] &&
    [[ -f $venv/.compiled || ! -w $venv ]]
}

# Whether the python3 on PATH has everything.  From /: neither the working directory nor a relative PYTHONPATH counts.
_kaldi_uq_python_is_complete() {
  type -P python3 >/dev/null && (cd / && python3 "$1/utils/check_env.py" >/dev/null 2>&1)
}

_kaldi_uq_use_venv() {
  export VIRTUAL_ENV="$1/.venv" PATH="$1/.venv/bin:$PATH"
  unset PYTHONHOME
}

_kaldi_uq_use_python() {
  export PATH="$1/utils/bin:$PATH"
}

_kaldi_uq_choose() {
  local root=$1 active=${VIRTUAL_ENV:-}${CONDA_PREFIX:-}${PYTHONPATH:-}
  if [[ -n $active && ${VIRTUAL_ENV:-} != "$root/.venv" ]] && _kaldi_uq_python_is_complete "$root"; then
    _kaldi_uq_use_python "$root"
  elif _kaldi_uq_venv_is_current "$root"; then
    _kaldi_uq_use_venv "$root"
  elif [[ -z $active ]] && _kaldi_uq_python_is_complete "$root"; then
    _kaldi_uq_use_python "$root"
  else
    # to stderr: the output of the script that sources this file may be data
    bash "$root/utils/make_env.sh" >&2 || return 1
    _kaldi_uq_use_venv "$root"
  fi
}

# A script that runs another need not look again: the choice travels in the environment, with the python3 it was made for.
if [[ ${KALDI_UQ_ENV:-} != "$_kaldi_uq_root:$(type -P python3 || true)" ]]; then
  _kaldi_uq_choose "$_kaldi_uq_root" || return 1
  KALDI_UQ_ENV="$_kaldi_uq_root:$(type -P python3)"
  export KALDI_UQ_ENV
fi
unset -f _kaldi_uq_venv_is_current _kaldi_uq_python_is_complete _kaldi_uq_use_venv _kaldi_uq_use_python _kaldi_uq_choose
unset _kaldi_uq_root
