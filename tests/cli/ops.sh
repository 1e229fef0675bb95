# The op table.
. "$(dirname "$0")/common.bash"
expect 0 '' "$anneal" ops
[ "$(grep -c '^[a-z]' out)" -ge 70 ] || bad "only $(grep -c '^[a-z]' out) operations"
expect 0 '' "$anneal" ops matmul
has out '^matmul \(ios15\): '
has out '\[transpose_x = false\]'
same 'operations named' 1 "$(grep -c '^[a-z]' out)"
expect 0 '' "$anneal" ops --json
perl -e 'eval { require JSON::PP } or exit; local $/; $j = JSON::PP::decode_json(<STDIN>);
	exit !grep { $_->{name} eq "softmax" && $_->{parameters}[0]{name} eq "x" } @$j' < out || bad 'ops --json'
expect 0 '' "$anneal" ops --numerics
has out '^  m4 '
has out '^rounding: '
has out '^  away \[m1 m2 m3 m4 m5 m6\]$'
expect 0 '' "$anneal" ops --numerics --json
perl -e 'eval { require JSON::PP } or exit; local $/; $j = JSON::PP::decode_json(<STDIN>);
	my ($r) = grep { $_->{key} eq "rounding" } @{$j->{rules}}; my ($c) = grep { $_->{name} eq "even" } @{$r->{choices}};
	exit !("@{$c->{profiles}}" eq "ieee fast" && $c->{evidence} && $j->{profiles}[2]{name} eq "m1")' < out ||
	bad 'ops --numerics --json'
expect 2 'no operand' "$anneal" ops --numerics matmul
expect 0 '' "$anneal" ops --quirks
has out '^min_width \[off; objc\]$'
has out '^loaded_programs \[127; objc, e5rt\]$'
has out 'Orion constraint 20'
expect 0 '' "$anneal" ops --quirks --json
perl -e 'eval { require JSON::PP } or exit; local $/; $j = JSON::PP::decode_json(<STDIN>);
	my ($q) = grep { $_->{name} eq "compile_budget" } @$j; exit !($q->{default} == 119 && $q->{routes} eq "objc")' < out ||
	bad 'ops --quirks --json'
expect 2 'no operand' "$anneal" ops --quirks matmul
finish
