# anneal eval: progress on a terminal, and none elsewhere.
. "$(dirname "$0")/common.bash"
small_model
expect 0 '' "$anneal" eval model text.txt
has out '^text.txt: [0-9.]+ bits per byte'
cp out plain
expect 0 '' "$anneal" eval model --ids 72,101,108 --logits l.npy
cp l.npy plain.npy

# util-linux's script gives a terminal; others of that name take other options
script -qec true /dev/null > script.out 2>&1 < /dev/null || finish
terminal() { script -qec "$*" /dev/null < /dev/null | tr '\r' '\n' > shown; }
terminal "'$anneal' eval model text.txt"
has shown '^measuring the text +0%'
# erased before the result stands in its place
grep -qF $'\033[K'"$(cat plain)" shown || bad "shown on a terminal: $(cat shown)"
terminal "'$anneal' eval model --ids 72,101,108 --logits l.npy"
has shown '^computing logits +0%'
cmp -s l.npy plain.npy || bad 'logits depend on the terminal'
finish
