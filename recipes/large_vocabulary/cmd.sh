# shellcheck shell=bash
# How jobs run.  utils/run.pl runs them on this machine; Kaldi's queue.pl, slurm.pl and ssh.pl have the same interface and
# need a file system that all machines share: "Grids" in recipes/tidigits/README.md.
export train_cmd="utils/run.pl"
export decode_cmd="utils/run.pl"
