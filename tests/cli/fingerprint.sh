# Published fingerprints from the command line.
. "$(dirname "$0")/common.bash"
expect 0 '' "$anneal" fingerprint gemm-64x256x256 conv-relu
has out '^  m1 +0\.0012522854527169[0-9]* +0\.0012522854527169441 +[-+]\S+  equal$'
has out '^  m1 +0\.000366365585842[0-9]+ +3\.6636558584241826e-4 '
has out '^  m5 +0\.000510248803437[0-9]+ +5\.102488034377338e-4 '
has out '^6 equal, 0 differ, 0 unexplained, 0 not published$'
grep -q gemm-512 out && bad 'computes what was not asked for'
expect 0 '' "$anneal" fingerprint conv-relu --numerics m4
has out '  not published$'
expect 1 '' "$anneal" fingerprint conv-relu --numerics ieee --chip m2
has out '  differs$'
expect 1 '' "$anneal" fingerprint conv-relu --numerics m1 --chip m5
expect 0 '' "$anneal" fingerprint layer-norm --numerics ieee --chip m5
has out '  unexplained$'
expect 0 '' "$anneal" fingerprint gemm-64x256x256 --json
perl -e 'eval { require JSON::PP } or exit; local $/; my $a = JSON::PP::decode_json(<STDIN>);
	@$a == 3 && $a->[0]{verdict} eq "equal" && abs($a->[0]{measured} / $a->[0]{published} - 1) < 1e-12 or exit 1' < out ||
	bad "JSON: $(cat out)"
expect 2 'there is no fingerprint "conv"' "$anneal" fingerprint conv
expect 2 'nothing was published of "m3"' "$anneal" fingerprint --chip m3
expect 2 'no numerics "q"|numerics' "$anneal" fingerprint --numerics q
expect 2 'no device is called "q"' "$anneal" fingerprint --device q
finish
