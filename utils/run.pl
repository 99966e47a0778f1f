#!/usr/bin/env perl
# Runs a command, or an array of them in parallel, on this machine, with one log file each: Kaldi's run.pl interface.
# A user's own queue.pl or slurm.pl takes its place through the variables of cmd.sh.
#
# Differences from Kaldi's: an argument reaches the command as it is, whatever characters it has (there, one without
# blanks is shell code); only whole operators such as '|' or '2>/dev/null' are passed to the shell.  A pipeline fails if
# any part of it fails.  Jobs end when run.pl is told to end, when it is killed, and in a script of this repository also
# when what called it has ended.
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Path qw(make_path);
use POSIX qw(:sys_wait_h setpgid setsid);

my $usage = <<'END';
Usage: run.pl [options] [JOB=<first>:<last>] <log-file> <command> [<arg> ...]
e.g.: run.pl --max-jobs-run 4 JOB=1:8 log/zip.JOB.log gzip -k exp/mono/ali.JOB

Runs the command with JOB replaced by each number, in the arguments and in the
name of the log file. Exits with status 1 if a job fails, after all have ended.
Options:
  --max-jobs-run <n>   at most so many at once, also -tc <n> (default: number of
                       CPU cores)
  --mem, --gpu, --num-threads, ... <value>
                       accepted and ignored: they are for clusters
END

my %running;    # process id => [job, log file, time it began]
my %failed;     # job => log file
my %killed;     # log file => number of the signal, also if it is the shell that says so
my $signal;     # the one we were told to end with
my $watcher;    # pipe to the process that outlives us
my $caller = getppid();

sub fail {
  print STDERR "run.pl: error: @_\n";
  watch_caller_no_more();
  kill_jobs('TERM');
  exit 1;
}

my ($max_jobs, $name, $first, $last) = (0, undef, 1, 1);

# Options and the array stand in any order.
while (@ARGV) {
  if ($ARGV[0] eq '--help' || $ARGV[0] eq '-h') {
    print $usage;
    exit 0;
  } elsif ($ARGV[0] =~ /^-/) {
    my $option = shift @ARGV;
    next if $option eq '-V' || $option =~ /^--[^=]+=/;
    fail("option $option has no value") if !@ARGV;
    my $value = shift @ARGV;
    shift @ARGV if $option eq '-pe' && @ARGV;    # -pe smp 4
    next if $option ne '--max-jobs-run' && $option ne '-tc';
    fail("$option must be a positive integer, got '$value'") if $value !~ /^[1-9][0-9]*$/;
    $max_jobs = $value if !$max_jobs || $value < $max_jobs;    # cmd.sh and a step may both set it
  } elsif (!defined $name && $ARGV[0] =~ /^([A-Za-z_]\w*)=(.*)$/) {
    ($name, my $range) = ($1, $2);
    $range =~ /^([0-9]+)(?::([0-9]+))?$/ or fail("expected $name=<first>:<last>, got '$ARGV[0]'");
    ($first, $last) = ($1, defined $2 ? $2 : $1);
    $first >= 1 or fail("range $ARGV[0] must begin at 1 or later");
    $first <= $last or fail("range $ARGV[0] is empty");
    shift @ARGV;
  } else {
    last;
  }
}
if (@ARGV < 2) {
  print STDERR $usage;
  exit 1;
}
my ($log_pattern, @command) = @ARGV;
my $num_jobs = $last - $first + 1;
fail("$num_jobs jobs would write one log file, $log_pattern; put $name into its name")
  if $num_jobs > 1 && index($log_pattern, $name) < 0;
$max_jobs ||= num_cores();

sub num_cores {
  # nproc would answer OMP_NUM_THREADS, which is about the threads of one job
  delete local @ENV{qw(OMP_NUM_THREADS OMP_THREAD_LIMIT)};
  my $cores = `nproc 2>/dev/null` || `getconf _NPROCESSORS_ONLN 2>/dev/null` || 1;
  return $cores =~ /^(\d+)/ && $1 > 0 ? $1 : 1;
}

sub with_job {
  my ($text, $job) = @_;
  $text =~ s/\Q$name\E/$job/g if defined $name;
  return $text;
}

sub shell_quote {
  my ($word) = @_;
  return $word if $word =~ m{^[\w@%+=:,./-]+$}a;
  $word =~ s/'/'\\''/g;
  return "'$word'";
}

# The shell's line: operators and redirections as they are, VAR=value in front of a command as an assignment, all
# else quoted.
sub shell_line {
  my @words;
  my $in_front = 1;
  for my $word (@_) {
    if ($word =~ /^(?:\||\|&|\|\||&&|;|\(|\))$/) {
      push @words, $word;
      $in_front = 1;
      next;
    }
    if ($word =~ /^(?:[0-9]?>&[0-9]|<|(?:[0-9]|&)?>>?)$/) {
      push @words, $word;
    } elsif ($word =~ /^((?:[0-9]|&)?>>?)([^<>&|].*)$/s) {
      push @words, $1 . shell_quote($2);
    } elsif ($in_front && $word =~ /^([A-Za-z_]\w*=)(.*)$/sa) {
      push @words, $1 . shell_quote($2);
      next;
    } else {
      push @words, shell_quote($word);
    }
    $in_front = 0;
  }
  return join ' ', @words;
}

sub append {
  my ($log, $mode, $text) = @_;
  open(my $stream, $mode, $log) or fail("cannot write $log: $!");
  print {$stream} $text;
  close($stream) or fail("cannot write $log: $!");
}

for my $kind (qw(INT TERM HUP)) {
  $SIG{$kind} = sub { $signal ||= $kind; kill_jobs('TERM') };
}

# Nobody tells us that the caller was killed.
$SIG{ALRM} = sub {
  if (getppid() != $caller) {
    $signal ||= 'TERM';
    kill_jobs('TERM');
  }
  alarm 1;
};
alarm 1 if $ENV{KALDI_UQ_MASTER};

# Before any end: Perl gives up its handlers a while before it ends, and an alarm that comes then kills it.
sub watch_caller_no_more {
  $SIG{ALRM} = sub { };
  alarm 0;
}

sub kill_jobs {
  my ($kind) = @_;
  kill $kind, map { -$_ } keys %running if %running;
}

# A process that reads of jobs that begin (+<pid>) and end (-<pid>), and ends those that are left when the pipe closes:
# when we are no more, if we were killed.
sub watch {
  pipe(my $read, $watcher) or fail("cannot make a pipe: $!");
  my $pid = fork();
  defined $pid or fail("cannot start another process: $!");
  if ($pid) {
    close($read);
    $SIG{PIPE} = 'IGNORE';                                  # jobs run on if somebody ends the watcher
    return;
  }
  setsid();
  alarm 0;
  $SIG{$_} = 'IGNORE' for qw(INT TERM HUP);
  chdir '/';
  for my $fd (0 .. 255) { POSIX::close($fd) if $fd != fileno($read) }    # locks and pipes of others, above all
  my %left;
  while (my $line = <$read>) {
    $line =~ /^\+(\d+)/ ? $left{$1} = 1 : $line =~ /^-(\d+)/ && delete $left{$1};
  }
  for my $kind ('TERM', 'KILL') {
    kill $kind, map { -$_ } keys %left;
    for (my $waited = 0; $waited < 50 && grep({ kill 0, -$_ } keys %left); $waited++) {
      select(undef, undef, undef, 0.1);
    }
  }
  POSIX::_exit(0);
}

sub tell_watcher { syswrite($watcher, "$_[0]\n") }

sub start {
  my ($job) = @_;
  my $log = with_job($log_pattern, $job);
  my $line = shell_line(map { with_job($_, $job) } @command);
  make_path(dirname($log), { error => \my $ignored });    # append says it if this did not work
  append($log, '>', "# $line\n# Started at " . localtime() . "\n#\n");
  my $pid = fork();
  defined $pid or fail("cannot start another process: $!");
  if (!$pid) {
    setpgid(0, 0);                                          # so that all that a job starts can be ended with it
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE ALRM);
    open(STDIN, '<', '/dev/null') && open(STDOUT, '>>', $log) && open(STDERR, '>&', \*STDOUT) or POSIX::_exit(126);
    no warnings 'exec';
    exec('bash', '-c', "set -o pipefail; $line") or print STDERR "run.pl: cannot start bash: $!\n";
    POSIX::_exit(127);
  }
  setpgid($pid, $pid);                                      # whoever comes first
  $running{$pid} = [$job, $log, time];
  tell_watcher("+$pid");
}

# Waits for one job, or as long as a signal lets us, and writes the end of its log.
sub reap {
  my ($flags) = @_;
  my $pid = waitpid(-1, $flags);
  my $status = $?;
  my $entry = $pid > 0 ? delete $running{$pid} : undef;
  return if !$entry;
  tell_watcher("-$pid");
  my ($job, $log, $began) = @$entry;
  my ($code, $killed_by) = ($status >> 8, $status & 127);
  my $result = $killed_by ? "code $code; signal $killed_by" : "code $code";
  my $elapsed = time - $began;
  append($log, '>>', "# Accounting: time=$elapsed threads=1\n# Ended ($result) at "
      . localtime() . ", elapsed time $elapsed seconds\n");
  $failed{$job} = $log if $status != 0;
  $killed{$log} = $killed_by || ($code > 128 ? $code - 128 : 0);
}

watch();
my $next = $first;
while (!$signal && ($next <= $last || %running)) {
  if ($next <= $last && keys %running < $max_jobs) {
    start($next++);
  } else {
    reap(0);
  }
}
watch_caller_no_more();

if ($signal) {
  kill_jobs('TERM');    # again: one may have started while the signal came
  for (my $waited = 0; %running && $waited < 50; $waited++) {
    select(undef, undef, undef, 0.1);
    reap(WNOHANG) for 1 .. keys %running;
  }
  kill_jobs('KILL');
  reap(0) while %running;
  print STDERR "run.pl: ended by SIG$signal, and the jobs with it; logs are in $log_pattern\n";
  $SIG{$signal} = 'DEFAULT';
  kill $signal, $$;
}

if (%failed) {
  my @jobs = sort { $a <=> $b } keys %failed;
  my @logs = map { $failed{$_} } @jobs;
  my $log = $logs[0];
  my $more = @logs > 10 ? ' and ' . (@logs - 10) . ' more' : '';
  $#logs = 9 if @logs > 10;
  if ($num_jobs == 1) {
    print STDERR "run.pl: job failed, log is in $log\n";
  } else {
    print STDERR 'run.pl: ' . @jobs . " / $num_jobs failed, logs are in @logs$more\n";
  }
  if (open(my $stream, '<', $log)) {
    # What a terminal would show: of a progress bar its last state, and not our own lines about the job.
    my @lines = grep { !/^#/ } map { s/^.*\r(?=.)//r } <$stream>;
    my @errors = grep { /: error: / } @lines;
    if (@errors) {
      print STDERR $errors[-1];
    } else {
      splice @lines, 0, @lines - 12 if @lines > 12;
      my $how = $killed{$log} ? "$log: killed by signal $killed{$log}; it" : $log;
      print STDERR "run.pl: $how ", @lines ? "ends with\n" : "says nothing\n", map { "  $_" } @lines;
    }
  }
  exit 1;
}
