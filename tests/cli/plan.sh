# The plan's FLOPs are 2*M*N*K over the contractions of one layer of dim 768, hidden 2048, 12 heads, 512 tokens.
. "$(dirname "$0")/common.bash"
expect 0 '' "$anneal" plan --preset layer768 --vocab 1000 --numerics ieee --json
cp out plan.json
value() { perl -ne "\$x = \$1 if /\"$1\": *([-0-9.e+]+)/; END { print \$x }" plan.json; }
entries() { perl -ne 'print "$1\t$2\t$3\n" if /"name": "([^"]*)", "where": "(\w+)", "flops": (\d+)/' plan.json; }
# forward: q k v o, gate up down, scores and values of 12 heads of 64; each weight once more for the gradient
# of its input and once more for its own
S=512 D=768 H=2048 V=1000
weights=$((2 * S * (4 * D * D + 3 * D * H)))
attention=$((2 * 12 * 2 * S * S * 64))
layer() { entries | grep -E "layer" | awk -F'\t' '{ s += $3 } END { printf "%.0f\n", s }'; }
same 'FLOPs of a layer, forward and backward' $((3 * (weights + attention))) "$(layer)"
same 'FLOPs of the update' "$(entries | awk -F'\t' '{ s += $3 } END { printf "%.0f\n", s }')" "$(value flops)"
same 'FLOPs of everything' $((3 * (weights + attention) + 3 * 2 * S * D * V)) "$(value flops)"
[ "$(entries | awk -F'\t' '$2 == "device"' | wc -l)" -ge 3 ] || bad 'hardly any dispatches'
[ "$(entries | awk -F'\t' '$2 == "host"' | wc -l)" -ge 4 ] || bad 'hardly any host operations'
awk -v m="$(value memory)" 'BEGIN { exit !(m > 7e6 * 16) }' || bad 'peak memory below weights, gradients and moments'
perl -e 'eval { require JSON::PP } or exit; local $/; JSON::PP::decode_json(<STDIN>)' < plan.json || bad 'not JSON'

# where masked products are left out, scores are made again in the backward
expect 0 '' "$anneal" plan --preset layer768 --vocab 1000 --json
cp out plan.json
again=$((2 * 12 * S * S * 64))
same 'FLOPs of a layer with scores twice' $((3 * (weights + attention) + again)) "$(layer)"

# twice the micro-batches: everything but what runs once per update, twice
expect 0 '' "$anneal" plan --preset layer768 --vocab 1000 --json --accumulate 2
once=$(value flops)
cp out plan.json
same 'FLOPs of two micro-batches' $((2 * once)) "$(value flops)"
expect 0 '' "$anneal" plan --preset layer768
has out '^One update: 512 tokens'
expect 0 '' "$anneal" plan --preset nano --batch 2 --tokens 32
has out '^One update: 64 tokens'

# a layer as it was published: six programs, and the host between them
expect 0 '' "$anneal" plan --preset layer768 --vocab 1000 --split six --json
cp out plan.json
same 'programs of the layer' 6 "$(entries | grep layers | awk -F'\t' '$2 == "device"' | wc -l)"
same 'FLOPs of the scores, computed again' $once "$(value flops)"
same 'surfaces in' $((25 << 20)) "$(perl -ne '$n += $1 if /layers.*"device".*"in": (\d+)/; END { print $n }' plan.json)"
perl -e 'eval { require JSON::PP } or exit; local $/; JSON::PP::decode_json(<STDIN>)' < plan.json || bad 'not JSON'
expect 0 '' "$anneal" plan --preset tiny --layers-per-program 3
has out '^layers.0-2 backward'
has out '^layers.3 backward'
refused 2 'no split "seven"; there are half, six' "$anneal" plan --split seven
refused 2 'choose one' "$anneal" plan --split six --layers-per-program 2
expect 0 '' "$anneal" plan --preset nano --weights bake
has out '^compile layers.1 backward'
has out '6 programs are compiled in every update'
expect 0 '' "$anneal" plan --preset nano --weights packed --numerics m1
has out '^pack layers.0 forward'
refused 2 'none of dynamic, packed, bake, reload' "$anneal" plan --weights none
refused 2 'none of host, device' "$anneal" plan --dw gpu
finish
