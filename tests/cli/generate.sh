# Generation: as many tokens as asked, the same for the same seed, valid UTF-8 pieces, past the context.
. "$(dirname "$0")/common.bash"
small_model
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 40 --seed 7
cp out first
has first '^She walked'
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 40 --seed 7
cmp -s out first || bad 'the same seed writes another text'
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 40 --seed 7 --threads 1
cmp -s out first || bad 'another number of threads writes another text'
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 40 --seed 8
cmp -s out first && bad 'another seed writes the same text'
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 20 --temperature 0
cp out greedy
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 20 --top-k 1 --seed 5
cmp -s out greedy || bad 'top-k 1 is not greedy'
expect 0 '' "$anneal" generate model --prompt 'She walked' --tokens 20 --top-p 0.000001 --seed 5
cmp -s out greedy || bad 'a tiny top-p is not greedy'
# nano's context has 64 tokens
expect 0 '' "$anneal" generate model --prompt 'the' --tokens 200 --temperature 1 --through-end
[ "$(wc -c < out)" -gt 200 ] || bad "200 tokens gave $(wc -c < out) bytes"
expect 0 '' "$anneal" generate model --prompt "$(head -c 2000 text.txt)" --tokens 5
expect 0 '' "$anneal" generate model --tokens 5
expect 0 '' "$anneal" generate model --prompt-ids 72,105 --tokens 5

# Text appears as it is written: at a slow reader's first line most is still to come
"$anneal" generate model --prompt 'the' --tokens 100000 --through-end 2> err | head -c 100 > part
[ "$(wc -c < part)" = 100 ] || bad 'no output through a pipe'

# Logits of every position, and they do not depend on what follows
expect 0 '' "$anneal" eval model --ids 72,101,108,108 --logits long.npy
expect 0 '' "$anneal" eval model --ids 72,101,108 --logits short.npy
npy_numbers long.npy > long
npy_numbers short.npy > short
same 'number of logits' $((4 * 300)) "$(wc -l < long)"
head -n 900 long | cmp -s - short || bad 'logits depend on later tokens'
finish
