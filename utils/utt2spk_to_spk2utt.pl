#!/usr/bin/env perl
# Turns "utt spk" lines into "spk utt1 utt2 ..." lines; speakers in the order of their first utterance.
use strict;
use warnings;

my $usage = "Usage: utt2spk_to_spk2utt.pl [<utt2spk>] > <spk2utt>\n"
  . "e.g.: utt2spk_to_spk2utt.pl data/train/utt2spk > data/train/spk2utt\n";
if (@ARGV && $ARGV[0] =~ /^(?:--help|-h)$/) { print $usage; exit 0; }
if (@ARGV > 1) { print STDERR $usage; exit 1; }
my $file = @ARGV && $ARGV[0] ne '-' ? $ARGV[0] : undef;

sub fail { print STDERR "utt2spk_to_spk2utt.pl: error: @_\n"; exit 1; }

my $in = \*STDIN;
if (defined $file) { undef $in; open($in, '<', $file) or fail("$file: $!"); }
my $where = defined $file ? $file : 'standard input';
my (%seen, %utts, @spks);
while (<$in>) {
  s/^\xEF\xBB\xBF// if $. == 1;  # a byte order mark
  my @fields = split;
  @fields == 2 or fail("$where:$.: expected '<utt> <spk>', found '" . join(' ', @fields) . "'");
  my ($utt, $spk) = @fields;
  !$seen{$utt}++ or fail("$where:$.: utterance '$utt' stands twice");
  push @spks, $spk if !exists $utts{$spk};
  push @{ $utts{$spk} }, $utt;
}
print "$_ @{ $utts{$_} }\n" for @spks;
close(STDOUT) or fail("cannot write the output: $!");
