# shellcheck shell=bash
# Where the tools are.  Set KALDI_ROOT to run on Kaldi's own binaries; without it the embedded engine runs.
export LC_ALL=C
. utils/env.sh
