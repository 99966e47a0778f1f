# shellcheck shell=bash
# Kaldi's option parsing for scripts: --opt-name VALUE sets the variable opt_name.  To be sourced, after the variables
# have their defaults and help_message its text:
#
#   nj=4
#   cmd=run.pl
#   help_message="Usage: $0 [options] <data-dir>"
#   . utils/parse_options.sh
#
#   --opt-name VALUE, --opt-name=VALUE   the variable must be defined; a default of true or false takes only these two
#   --config FILE                        lines "opt_name=VALUE" or "--opt-name=VALUE"; the command line wins over it
#   --help, -h                           prints help_message and exits with status 0
#   --                                   ends the options; so does the first argument that is no option, or is empty
#
# Afterwards $1, $2, ... are the arguments.  Values are data: they are assigned with printf -v, never evaluated, and a
# configuration file is read, never sourced.

_po_die() {
  echo "$0: error: $* (see $0 --help)" >&2
  exit 1
}

# _po_variable OPTION: the variable of --opt-name in _po_name; fails if it is no defined variable of the script.
# The name begins with a lower-case letter: PATH, IFS and their like are no options.
_po_variable() {
  _po_name=${1#--}
  _po_name=${_po_name//-/_}
  [[ $_po_name =~ ^[a-z][a-zA-Z0-9_]*$ && $_po_name != _po_* && -v $_po_name ]]
}

# _po_set OPTION VALUE WHERE: check and assign.
_po_set() {
  _po_variable "$1" || _po_die "${3}unknown option $1"
  local default=${!_po_name}
  if [[ $default == true || $default == false ]]; then
    [[ $2 == true || $2 == false ]] || _po_die "${3}option $1 is true or false, got '$2'"
  elif [[ $default =~ ^-?[0-9]+$ && $2 == *'['* ]]; then
    # the script will do arithmetic with it, and bash evaluates what stands in a subscript, even $(...)
    _po_die "${3}option $1 is a number, got '$2'"
  fi
  printf -v "$_po_name" '%s' "$2"
}

# _po_read_config FILE
_po_read_config() {
  local line number=0 quoted='^(".*"|'\''.*'\'')[[:space:]]*(#.*)?$'
  [[ -f $1 && -r $1 ]] || _po_die "--config $1: no such file"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    if ((number == 1)); then line=${line#$'\xef\xbb\xbf'}; fi # a byte order mark
    line=${line#"${line%%[![:space:]]*}"} # leading blanks
    [[ -z $line || $line == '#'* ]] && continue
    [[ $line == *=* ]] || _po_die "$1:$number: expected opt=value, found '$line'"
    local option=${line%%=*} value=${line#*=}
    if [[ $value =~ $quoted ]]; then
      value=${BASH_REMATCH[1]}
      value=${value:1:${#value}-2}
    else
      value=${value%%[[:space:]]#*}
      value=${value%"${value##*[![:space:]]}"} # trailing blanks
    fi
    option=${option#--}
    _po_set "--${option//_/-}" "$value" "$1:$number: "
  done <"$1"
}

# _po_need_value OPTION NUMBER-OF-ARGUMENTS NEXT: an error if NEXT cannot be the value of OPTION.
_po_need_value() {
  (($2 > 1)) || _po_die "option $1 has no value"
  if [[ $3 == --config ]] || { [[ $3 =~ ^--[a-z][a-zA-Z0-9_-]*$ ]] && _po_variable "$3"; }; then
    _po_die "option $1 has no value, $3 follows; write $1=$3 if that is the value"
  fi
}

# The configuration first, wherever it stands, so that the command line wins.
_po_configs=()
for ((_po_i = 1; _po_i <= $#; _po_i++)); do
  case ${!_po_i} in
    --config)
      _po_i=$((_po_i + 1))
      ((_po_i <= $#)) || _po_die "option --config has no value"
      _po_configs+=("${!_po_i}")
      ;;
    --config=*) _po_configs+=("${!_po_i#--config=}") ;;
    --help | -h | -- | '') break ;;
    --*=*) ;;
    --*) _po_i=$((_po_i + 1)) ;; # its value
    *) break ;;
  esac
done
for _po_i in ${_po_configs[@]+"${_po_configs[@]}"}; do
  _po_read_config "$_po_i"
done

while [[ -n ${1:-} ]]; do
  case $1 in
    --help | -h)
      printf '%b\n' "${help_message:-$0: no help text}" # %b: Kaldi's scripts write \n in it
      exit 0
      ;;
    --) shift; break ;;
    --config)
      [[ ! -v config ]] || config=$2
      shift 2
      ;;
    --config=*)
      [[ ! -v config ]] || config=${1#*=}
      shift
      ;;
    --*=*)
      _po_set "${1%%=*}" "${1#*=}" ''
      shift
      ;;
    --*)
      _po_variable "$1" || _po_die "unknown option $1"
      _po_need_value "$1" $# "${2:-}"
      _po_set "$1" "$2" ''
      shift 2
      ;;
    *) break ;;
  esac
done

# An empty --cmd is nearly always a variable of the caller that was not set.
[[ ! -v cmd || -n $cmd ]] || _po_die "option --cmd is empty"

unset -f _po_die _po_variable _po_set _po_read_config _po_need_value
unset _po_name _po_configs _po_i
