#!/usr/bin/env perl
# Replaces symbols by the integers of a symbol table.
use strict;
use warnings;

my $usage = <<'END';
Usage: sym2int.pl [options] <symbol-table> [<text>] > <integers>
e.g.: sym2int.pl --map-oov '<UNK>' -f 2- data/lang/words.txt data/train/text

Options:
  -f <fields>          fields to replace: 2, 2-4, 2- or -4 (default: all)
  --map-oov <symbol>   symbol or integer for what is not in the table
                       (default: such a symbol is an error)
END

sub fail { print STDERR "sym2int.pl: error: @_\n"; exit 1; }

my ($begin, $end, $oov) = (1, ~0, undef);
while (@ARGV && $ARGV[0] =~ /^-./) {
  my $option = shift @ARGV;
  if ($option eq '--help' || $option eq '-h') { print $usage; exit 0; }
  $option eq '-f' || $option eq '--map-oov' or fail("unknown option $option");
  my $value = shift @ARGV;
  defined $value && $value ne '' && $value ne '-f' or fail("option $option has no value");
  if ($option eq '--map-oov') {
    $oov = $value;
  } elsif ($value =~ /^([1-9]\d*)$/) {
    ($begin, $end) = ($1, $1);
  } elsif ($value =~ /^([1-9]\d*)?[-:]([1-9]\d*)?$/ && (defined $1 || defined $2)) {
    ($begin, $end) = (defined $1 ? $1 : 1, defined $2 ? $2 : ~0);
  } else {
    fail("-f takes 2, 2-4, 2- or -4, got '$value'");
  }
}
if (@ARGV < 1 || @ARGV > 2) { print STDERR $usage; exit 1; }
my ($table, $file) = @ARGV;

my %sym2int;
open(my $symbols, '<', $table) or fail("$table: $!");
while (<$symbols>) {
  s/^\xEF\xBB\xBF// if $. == 1;  # a byte order mark
  my @fields = split;
  @fields == 2 && $fields[1] =~ /^\d+$/ or fail("$table:$.: expected '<symbol> <integer>', found '@fields'");
  $sym2int{ $fields[0] } = $fields[1];
}
close($symbols);
if (defined $oov && $oov !~ /^\d+$/) {
  exists $sym2int{$oov} or fail("--map-oov: '$oov' is not in $table");
  $oov = $sym2int{$oov};
}

my $in = \*STDIN;
if (defined $file && $file ne '-') { undef $in; open($in, '<', $file) or fail("$file: $!"); }
my $where = defined $file && $file ne '-' ? $file : 'standard input';
my ($num_oov, %oovs) = (0);
while (<$in>) {
  s/^\xEF\xBB\xBF// if $. == 1;  # a byte order mark
  my @fields = split;
  for my $n ($begin .. ($end < @fields ? $end : scalar @fields)) {
    my $symbol = $fields[$n - 1];
    if (exists $sym2int{$symbol}) {
      $fields[$n - 1] = $sym2int{$symbol};
    } else {
      defined $oov or fail("$where:$.: '$symbol' (field $n) is not in $table");
      $fields[$n - 1] = $oov;
      $num_oov++;
      $oovs{$symbol} = 1;
    }
  }
  print "@fields\n";
}
close(STDOUT) or fail("cannot write the output: $!");
if ($num_oov) {
  my @names = sort keys %oovs;
  my $more = @names > 10 ? ' ...' : '';
  $#names = 9 if @names > 10;
  print STDERR "sym2int.pl: replaced $num_oov symbols that are not in $table by $oov: @names$more\n";
}
