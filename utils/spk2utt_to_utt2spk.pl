#!/usr/bin/env perl
# Turns "spk utt1 utt2 ..." lines into "utt spk" lines, in the order of the input.
use strict;
use warnings;

my $usage = "Usage: spk2utt_to_utt2spk.pl [<spk2utt>] > <utt2spk>\n"
  . "e.g.: spk2utt_to_utt2spk.pl data/train/spk2utt > data/train/utt2spk\n";
if (@ARGV && $ARGV[0] =~ /^(?:--help|-h)$/) { print $usage; exit 0; }
if (@ARGV > 1) { print STDERR $usage; exit 1; }
my $file = @ARGV && $ARGV[0] ne '-' ? $ARGV[0] : undef;

sub fail { print STDERR "spk2utt_to_utt2spk.pl: error: @_\n"; exit 1; }

my $in = \*STDIN;
if (defined $file) { undef $in; open($in, '<', $file) or fail("$file: $!"); }
my $where = defined $file ? $file : 'standard input';
my %seen;
while (<$in>) {
  s/^\xEF\xBB\xBF// if $. == 1;  # a byte order mark
  my ($spk, @utts) = split;
  @utts or fail("$where:$.: expected '<spk> <utt1> <utt2> ...'");
  for my $utt (@utts) {
    !$seen{$utt}++ or fail("$where:$.: utterance '$utt' stands twice");
    print "$utt $spk\n";
  }
}
close(STDOUT) or fail("cannot write the output: $!");
