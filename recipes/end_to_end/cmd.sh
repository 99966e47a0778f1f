# shellcheck shell=bash
# How jobs run.  utils/run.pl runs them on this machine; Kaldi's queue.pl, slurm.pl and ssh.pl have the same interface.
export train_cmd="utils/run.pl"
export decode_cmd="utils/run.pl"
