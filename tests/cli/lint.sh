# Diagnostics of MIL programs.
. "$(dirname "$0")/common.bash"
good=$source_dir/examples/layer.mil
expect 0 '' "$anneal" lint "$good"
has out 'layer.mil: ok \(1 function'
sed 's/\[8, 5\]> y/[8, 6]> y/' "$good" > type.mil
sed 's/silu(/sillu(/' "$good" > op.mil
sed 's/x = h/x = hh/' "$good" > name.mil
sed 's/matmul(/matmul/' "$good" > syntax.mil
head -c 150 "$good" > short.mil
: > empty.mil
printf 'program(1.3)\n{\0}' > zero.mil
for case in type:6 op:6 name:6 syntax:5; do
	file=${case%%:*}.mil
	expect 1 '1 of 1 program failed' "$anneal" lint "$file"
	has out "^$file:${case#*:}:[0-9]+: error: "
	has out '^ *\^'
done
for file in short.mil empty.mil zero.mil; do
	expect 1 'failed' "$anneal" lint "$file"
	has out "$file"
done
# several files, several errors, and a script's view of them
sed 's/silu(x = h)/sillu(x = h)/; s/transpose_x = no/transpose_q = no/' "$good" > two.mil
expect 1 '' "$anneal" lint --json "$good" two.mil absent.mil
same 'reports of files' 3 "$(grep -c '"file"' out)"
has out '"ok": true, "diagnostics": \[\]'
has out 'two.mil", "ok": false, "diagnostics": \[\{"line": [56], "column": [0-9]+, "text": "'
has out 'absent.mil", "ok": false'
perl -e 'eval { require JSON::PP } or exit; local $/; $j = JSON::PP::decode_json(<STDIN>); exit(@{$j->[1]{diagnostics}} < 1)' \
	< out || bad 'lint --json is not JSON'
finish
