# shellcheck shell=bash
# To be sourced in a recipe directory: the recipe's own path.sh, which may be anybody's, and then this repository's
# programs, wherever the repository is.
in_recipe
set +eu # a path.sh need not be written for these
. ./path.sh
set -eu
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
