#!/bin/bash
# The published single-layer training without loss scaling: what is in shared/ane-facts.md §2.3 as an
# inference, computed.  d_y is 2 d / (tokens dim), about 5e-7, a subnormal (exponent -14); weights are below
# 1/sqrt(768), exponent -5 or less: every product of a weight and d_y is below the cut-off, so every dx is 0
# and only the two matrices that d_y itself reaches are trained.  At a scale of tokens dim, all are.
#   lost_products.sh EXECUTABLE
set -u
example=$1
json=$("$example" --numerics m4 --json 1 393216) || { echo "exit status $?"; exit 1; }
perl -e '
	eval { require JSON::PP } or exit 0;
	my $r = JSON::PP::decode_json($ARGV[0]);
	my ($plain, $scaled) = @{$r->{runs}};
	my $zeros = join " ", map { $_->{name} } grep { $_->{zero} } @{$plain->{gradients}};
	$zeros eq "attn_norm wq wk wv ffn_norm w_up w_gate" or die "gradients of zero: $zeros\n";
	for (@{$plain->{programs}}) {
		next unless $_->{name} =~ /backward/;
		$_->{products} > 0 && $_->{share} > 0.999 or die "$_->{name} lost only $_->{share}\n";
	}
	$scaled->{zero_gradients} == 0 or die "$scaled->{zero_gradients} gradients of zero with scaling\n";
	# not that they are good (rounding explains some 1e-3), but that no tenth of any is lost
	for (@{$scaled->{gradients}}) { $_->{error} < 0.1 or die "$_->{name}: error $_->{error}\n" }
' "$json" || exit 1

# IEEE arithmetic keeps something of everything even so; a scale of next to nothing loses all, and says so.
"$example" --numerics ieee --preset nano 1 | grep -q '^  0 of the gradients' || { echo "ieee loses gradients"; exit 1; }
"$example" --numerics ieee --preset nano 1e-9 > /dev/null
[ $? = 3 ] || { echo "no status for gradients of zero"; exit 1; }
"$example" nonsense 2> /dev/null
[ $? = 2 ] || { echo "no status for wrong usage"; exit 1; }
