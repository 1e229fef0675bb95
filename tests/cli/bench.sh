# anneal bench: JSON that parses, the tables that are promised; times are not looked at.
. "$(dirname "$0")/common.bash"

json() { # FILE KEY...: it parses and has arrays of these names
	perl -e 'eval { require JSON::PP } or exit 0; my $f = shift; open my $h, "<", $f; local $/;
		my $j = JSON::PP::decode_json(<$h>);
		ref $j->{$_} eq "ARRAY" && @{$j->{$_}} or die "no $_" for @ARGV;
		exists $j->{machine}[0]{cpu} or die "no cpu"' "$@" || bad "$1: $(head -c 400 "$1")"
}
expect 0 '' "$anneal" bench limits --json --runs 5
json out peaks bandwidth
has out '"pattern": "triad"'
expect 0 '' "$anneal" bench limits --runs 5 --isa portable --threads 1
has out '^portable '
grep -q '^avx' out && bad '--isa portable measures AVX'
expect 0 '' "$anneal" bench layer --model nano --tokens 32 --kernels --json --runs 5 --threads 1
json out step entries kernels
has out '"model": "nano", "tokens": 32,'
has out '"kernel": "gemm +64x32x64 [^|]*[|] matmul q"'
expect 0 '' "$anneal" bench decode --model stories15m --json --runs 5 --numerics ieee
json out decode
expect 0 '' "$anneal" bench train --model stories15m --tokens 128 --json --runs 5
json out peaks bandwidth rates train
has out '"over_floor": [0-9.]+'

# where the time of a training goes
text 20000 1 > text.txt
train=("$anneal" train text.txt --preset nano --vocab 300 --steps 3 --batch 2)
expect 0 'loss' "${train[@]}" --out a --profile
has out '^Profile of 2 updates'
has out '^layers.0 forward +2 '
has out '^\(between entries\)'
has out '^one update +2 .* 100.0%'
has out '^Kernels of "layers.0 forward", which 2 entries run'
has out '^gemm .*\| matmul q +4 '
expect 0 '' "${train[@]}" --out b --profile --json
grep '"event": "profile"' out > profile.json || bad 'no profile'
perl -e 'eval { require JSON::PP } or exit 0; local $/; my $j = JSON::PP::decode_json(<STDIN>);
	my $sum = $j->{between_entries_ms};
	$sum += $_->{ms} * $_->{runs} / $j->{updates} for @{$j->{entries}};
	abs($sum - $j->{ms}) < 1e-3 * $j->{ms} or die "the entries make $sum ms, the update takes $j->{ms}";
	@{$j->{programs}} == 4 or die "programs"' < profile.json || bad 'the profile does not add up'

refused 2 'no measurement given' "$anneal" bench
refused 2 'one measurement at a time' "$anneal" bench limits gemm
refused 2 'no measurement "speed"; there are limits, gemm, layer, train, decode' "$anneal" bench speed
refused 2 'from 5 to 101' "$anneal" bench limits --runs 4
refused 2 '"limits" does not take tokens; these do: layer, train$' "$anneal" bench limits --tokens 64
refused 2 '"limits" does not take numerics; these do: gemm, layer, train, decode$' "$anneal" bench limits --numerics fast
refused 2 '"gemm" does not take model; these do: layer, train, decode$' "$anneal" bench gemm --model tiny
for what in limits gemm layer decode; do
	refused 2 "\"$what\" does not take time; these do: train\$" "$anneal" bench $what --time 1
done
for what in limits gemm train decode; do
	refused 2 "\"$what\" does not take kernels; these do: layer\$" "$anneal" bench $what --kernels
done
refused 2 '"decode" does not take tokens' "$anneal" bench decode --tokens 64
[ -s out ] && bad 'measured before the options were refused'
refused 2 'no size that is measured' "$anneal" bench train --model stories15m --tokens 100
finish
