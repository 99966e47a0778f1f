#!/usr/bin/env perl
# Replaces integers by the symbols of a symbol table.
use strict;
use warnings;

my $usage = <<'END';
Usage: int2sym.pl [options] <symbol-table> [<integers>] > <text>
e.g.: int2sym.pl -f 2- data/lang/words.txt exp/mono/decode_test/1.tra

Options:
  -f <fields>    fields to replace: 2, 2-4, 2- or -4 (default: all)
END

sub fail { print STDERR "int2sym.pl: error: @_\n"; exit 1; }

my ($begin, $end) = (1, ~0);
while (@ARGV && $ARGV[0] =~ /^-./) {
  my $option = shift @ARGV;
  if ($option eq '--help' || $option eq '-h') { print $usage; exit 0; }
  $option eq '-f' or fail("unknown option $option");
  my $value = shift @ARGV;
  defined $value or fail("option $option has no value");
  if ($value =~ /^([1-9]\d*)$/) {
    ($begin, $end) = ($1, $1);
  } elsif ($value =~ /^([1-9]\d*)?[-:]([1-9]\d*)?$/ && (defined $1 || defined $2)) {
    ($begin, $end) = (defined $1 ? $1 : 1, defined $2 ? $2 : ~0);
  } else {
    fail("-f takes 2, 2-4, 2- or -4, got '$value'");
  }
}
if (@ARGV < 1 || @ARGV > 2) { print STDERR $usage; exit 1; }
my ($table, $file) = @ARGV;

my %int2sym;
open(my $symbols, '<', $table) or fail("$table: $!");
while (<$symbols>) {
  s/^\xEF\xBB\xBF// if $. == 1;  # a byte order mark
  my @fields = split;
  @fields == 2 && $fields[1] =~ /^\d+$/ or fail("$table:$.: expected '<symbol> <integer>', found '@fields'");
  $int2sym{ $fields[1] } = $fields[0];
}
close($symbols);

my $in = \*STDIN;
if (defined $file && $file ne '-') { undef $in; open($in, '<', $file) or fail("$file: $!"); }
my $where = defined $file && $file ne '-' ? $file : 'standard input';
while (<$in>) {
  s/^\xEF\xBB\xBF// if $. == 1;  # a byte order mark
  my @fields = split;
  for my $n ($begin .. ($end < @fields ? $end : scalar @fields)) {
    my $integer = $fields[$n - 1];
    $integer =~ /^\d+$/ or fail("$where:$.: '$integer' (field $n) is not an integer");
    exists $int2sym{$integer} or fail("$where:$.: $integer (field $n) is not in $table");
    $fields[$n - 1] = $int2sym{$integer};
  }
  print "@fields\n";
}
close(STDOUT) or fail("cannot write the output: $!");
