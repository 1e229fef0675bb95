# --help of every command, its examples as typed, and wrong usage.
. "$(dirname "$0")/common.bash"

expect 0 '' "$anneal" --version
has out '^anneal [0-9]+\.[0-9]+\.[0-9]+$'
has out '^Instruction sets: [a-z0-9,]+$'
expect 2 'Usage: anneal COMMAND' "$anneal"
expect 0 '' "$anneal" help
commands=$(sed -n 's/^  \([a-z]*\) .*/\1/p' out)
[ "$(wc -w <<< "$commands")" -ge 8 ] || bad "anneal help lists only: $commands"

# The examples are typed from the top of the source tree after `make demo`; this stands for it.
mkdir -p tree demo
ln -s "$source_dir/examples" "$source_dir/README.md" tree
small_model
mkdir tree/demo
ln -s "$work/model" tree/demo/model
ln -s "$work/text.txt" tree/demo/valid.txt

for command in $commands; do
	expect 0 '' "$anneal" "$command" --help
	has out "^Usage: anneal $command"
	has out '^Example$'
	cp out "$command.help"
	"$anneal" help "$command" | cmp -s - "$command.help" || bad "anneal help $command differs from --help"
	[ "$(wc -L < "$command.help")" -le 130 ] || bad "$command --help has lines of more than 130 columns"
	example=$(sed -n '/^Example$/,$ s/^  anneal //p' "$command.help" | sed "s|/tmp/|$work/|g")
	(cd tree && eval "\"\$anneal\" $example" > "$work/example.out" 2> "$work/example.err") ||
		bad "the example of $command fails: anneal $example: $(tail -c 300 example.err)"
	[ -s example.out ] || bad "the example of $command prints nothing"

	refused 2 'unknown option "--no-such-option"' "$anneal" "$command" --no-such-option
	has err 'Try "anneal .*--help"'
	refused 2 'unknown option "-q"' "$anneal" "$command" -q
done

refused 2 'unknown command "trian"' "$anneal" trian
refused 2 'no text' "$anneal" train
refused 2 'no text' "$anneal" train --resume
refused 2 '--steps needs a value' "$anneal" train text.txt --steps
refused 2 '--steps: expected a whole number from 1' "$anneal" train text.txt --steps 0
refused 2 '--steps: expected a whole number' "$anneal" train text.txt --steps 10.5
refused 2 '--steps: expected a whole number' "$anneal" train text.txt --steps=ten
refused 2 '--lr: expected a number' "$anneal" train text.txt --lr 1e-3x
refused 2 '--lr: expected a number' "$anneal" train text.txt --lr nan
refused 2 '--seed: expected a whole number' "$anneal" train text.txt --seed -1
refused 2 '--valid-share: expected a number from 0 to 0.9' "$anneal" train text.txt --valid-share 1
refused 2 '--json takes no value' "$anneal" ops --json=yes
refused 2 'huge' "$anneal" train text.txt --preset huge
refused 2 'm99' "$anneal" train text.txt --numerics m99
refused 2 'isa' "$anneal" train text.txt --isa sse9
refused 2 'coreml' "$anneal" plan --device coreml
refused 2 'operand' "$anneal" plan something
refused 2 'expected one' "$anneal" generate
refused 2 'no model folder' "$anneal" eval
refused 2 'one text' "$anneal" eval model
refused 2 'go together' "$anneal" eval model --ids 1,2
refused 2 'no program' "$anneal" lint
refused 2 'expected one program' "$anneal" run
refused 2 'NAME=FILE' "$anneal" run p.mil --in x
refused 2 'twice' "$anneal" run p.mil --in x=a --in x=b
refused 2 '--out is missing' "$anneal" grad p.mil
refused 1 'no operation "matmull"' "$anneal" ops matmull
if [ -e /dev/full ]; then
	"$anneal" ops > /dev/full 2> err && bad 'ops to a full device succeeds'
	has err 'No space left'
fi
finish
