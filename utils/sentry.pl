#!/usr/bin/env perl
# Ends what a script has started when the script itself ends, however it ends: utils/script.sh starts one for each
# script that no other script has started.
#
# What the script has started, down to the last job, is known by the environment: KALDI_UQ_MASTER has the script's value
# there.  Neither a process group nor a pipe would do: jobs have groups of their own, and nobody answers to SIGKILL.
use strict;
use warnings;
use POSIX qw(setsid);

my $usage = <<'END';
Usage: sentry.pl <pid> <value>
e.g.: sentry.pl $$ "$KALDI_UQ_MASTER" &
Waits until its parent, process <pid>, has ended, then ends every process that
has KALDI_UQ_MASTER=<value> in its environment: SIGTERM first, SIGKILL after 8
seconds.
END

if (@ARGV && $ARGV[0] =~ /^(?:-h|--help)$/) {
  print $usage;
  exit 0;
}
if (@ARGV && $ARGV[0] =~ /^-/) {
  print STDERR "$0: error: unknown option $ARGV[0] (see $0 --help)\n";
  exit 1;
}
if (@ARGV != 2) {
  print STDERR $usage;
  exit 1;
}
my ($master, $value) = @ARGV;
my ($interval, $patience) = (0.2, 8);    # seconds

# The processes of the script that are alive.
sub survivors {
  my @found;
  for my $file (glob '/proc/[0-9]*/environ') {
    my ($pid) = $file =~ /(\d+)/;
    next if $pid == $$;
    open(my $stream, '<', $file) or next;    # of another user, or gone
    local $/;
    my $environment = <$stream>;
    push @found, $pid if defined $environment && "\0$environment" =~ /\0KALDI_UQ_MASTER=\Q$value\E\0/;
  }
  return @found;
}

setsid();                                    # what ends the script's group does not end this
$SIG{$_} = 'IGNORE' for qw(INT TERM HUP PIPE);
chdir '/';
select(undef, undef, undef, $interval) while getppid() == $master;

my %told;
for (my $waited = 0; my @alive = survivors(); $waited += $interval) {
  kill 'TERM', grep { !$told{$_}++ } @alive;
  kill 'KILL', @alive if $waited > $patience;
  last if $waited > 2 * $patience;
  select(undef, undef, undef, $interval);
}
