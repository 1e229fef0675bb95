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
finish
