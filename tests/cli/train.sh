# Training: events, files, bits per byte, evaluation that agrees, dumped programs.
. "$(dirname "$0")/common.bash"
text 60000 4 > text.txt
expect 0 '' "$anneal" train text.txt --out m --preset nano --vocab 300 --steps 60 --batch 4 --warmup 5 --lr 0.003 \
	--json --dump dumped --seed 1
cp out events
same 'update events' 60 "$(grep -c '"event": "step"' events)"
has events '"event": "eval"'
has events '"event": "saved"'
perl -ne 'BEGIN { eval { require JSON::PP } or exit } JSON::PP::decode_json($_)' events || bad 'an event is not JSON'
value() { perl -ne "\$x = \$1 if /\"$2\": *([-0-9.e+]+)/; END { print \$x }" "$1"; }
before=$(value events bits_per_byte_before)
after=$(value events bits_per_byte_after)
# the words are drawn from 50: a model that learns their frequencies needs far fewer bits than an untrained one
awk -v b="$before" -v a="$after" 'BEGIN { exit !(a > 0 && b > 0 && a < 0.75 * b) }' ||
	bad "training does not help: $before bits per byte before, $after after"

# What it left: the last tenth for validation, a Hugging Face folder, metrics
same 'bytes of validation text' 6000 "$(value m/data.json valid_bytes)"
folder=m/$(cat m/last)
for file in config.json model.safetensors tokenizer.json optimizer.safetensors trainer_state.json; do
	[ -s "$folder/$file" ] || bad "no $folder/$file"
done
[ -s m/metrics.jsonl ] || bad 'no metrics.jsonl'

# eval agrees with what training said: the same text, weights and arithmetic
tail -c 6000 text.txt > valid.txt
expect 0 '' "$anneal" eval "$folder" valid.txt --json --numerics fast
bits=$(value out bits_per_byte)
awk -v a="$after" -v b="$bits" 'BEGIN { d = a - b; exit !(d * d < 1e-6) }' || bad "train says $after bits per byte, eval $bits"
# ieee differs by rounding of the products only (2^-9 relative in bf16)
expect 0 '' "$anneal" eval "$folder" valid.txt --json --numerics ieee
awk -v a="$after" -v b="$(value out bits_per_byte)" 'BEGIN { d = a / b - 1; exit !(d * d < 1e-4) }' ||
	bad "fast says $after bits per byte, ieee $(value out bits_per_byte)"
expect 0 '' "$anneal" eval "$folder" valid.txt
has out 'bits per byte'

# Every program that was executed reads back
[ "$(find dumped -name '*.mil' | wc -l)" -ge 2 ] || bad "dumped programs: $(ls dumped)"
expect 0 '' "$anneal" lint $(find dumped -name '*.mil')

# Several texts, a text for validation, a tokenizer and weights that exist
text 20000 5 > more.txt
expect 0 '.' "$anneal" train text.txt more.txt --valid valid.txt --tokenizer m/tokenizer.json --out n --preset nano \
	--steps 3 --batch 2 --untied --accumulate 2
same 'validation text of its own' 6000 "$(value n/data.json valid_bytes)"
has out '^before: '
expect 0 '.' "$anneal" train more.txt --init "$folder" --out tuned --steps 3 --batch 2 --valid valid.txt --lr 0.0001
start=$(sed -n 's/^before: *\([0-9.]*\).*/\1/p' out)
awk -v s="$start" -v b="$before" -v a="$after" 'BEGIN { exit !(s < (a + b) / 2) }' ||
	bad "--init does not start from the trained weights: $start bits per byte"
printf 'caf\351 \377\376 ' | cat - text.txt > latin.txt
expect 0 '3 bytes.*not valid UTF-8' "$anneal" train latin.txt --out l --preset nano --vocab 300 --steps 2 --batch 2

# 0 means none, not the default
expect 0 '' "$anneal" train text.txt --out none --preset nano --vocab 300 --steps 1 --batch 1 --clip 0 --decay 0 --json
has none/step-1/trainer_state.json '"clip": "-1"'
has none/step-1/trainer_state.json '"decay": "0"'

# What the arithmetic loses: a table, an event, the metrics; a gradient that is lost is an error
expect 0 '' "$anneal" train text.txt --out stats --preset nano --vocab 300 --steps 3 --batch 2 --numerics m4 --json --stats --stats-every 2
has out '"event": "stats", "counted_updates": 2, "programs": .*"name": "layers.1 backward", "products": [1-9]'
has stats/metrics.jsonl '"counts": \{"layers.0 forward": \{"products": [1-9]'
expect 0 '.' "$anneal" train text.txt --out table --preset nano --vocab 300 --steps 1 --batch 2 --numerics m4 --stats
has out '^head backward .*%'
refused_lost() { expect 1 'gradient of model\.[a-z0-9_.]* .*exactly zero.*backward.*products lost.*allow-lost' "$@"; }
refused_lost "$anneal" train text.txt --out lost --preset nano --vocab 300 --steps 1 --batch 2 --numerics m4 --loss-scale 0.001
expect 0 'exactly zero' "$anneal" train text.txt --out lost2 --preset nano --vocab 300 --steps 1 --batch 2 --numerics m4 --loss-scale 0.001 --allow-lost
finish
