# Bad input gets one clear message and status 1; nothing is half-written and nothing is lost.
. "$(dirname "$0")/common.bash"
small_model
tree() { (cd "$1" && find . -type f -exec cksum {} + | sort); }
before=$(tree model)
unchanged() { same "the model folder after: $1" "$before" "$(tree model)"; }
nothing_written() { [ ! -e "$1" ] || [ -z "$(find "$1" -type f)" ] || bad "$1 was written: $(find "$1")"; }
quick="--preset nano --vocab 300 --steps 5 --batch 4"

# Texts
: > empty.txt
printf 'Too short.' > short.txt
mkdir folder
for case in 'empty.txt:empty' 'short.txt:too short.*--seq' 'folder:is a folder' 'absent.txt:No such file'; do
	refused 1 "${case%%:*}.*${case#*:}|${case#*:}" "$anneal" train "${case%%:*}" --out new $quick
	nothing_written new
done
refused 1 'empty' "$anneal" train text.txt --valid empty.txt --out new $quick
nothing_written new
refused 1 'empty' "$anneal" eval model empty.txt
refused 1 'No such file' "$anneal" eval model absent.txt

# Sizes
refused 1 'heads' "$anneal" train text.txt --out new $quick --dim 64 --heads 7
refused 1 'kv' "$anneal" train text.txt --out new $quick --heads 4 --kv-heads 3
refused 1 'kv' "$anneal" plan --heads 4 --kv-heads 3
refused 1 'GB|memory|bytes' "$anneal" train text.txt --out new --vocab 300 --dim 16384 --layers 400 --heads 64 --hidden 65536
nothing_written new/step-0
[ ! -e new/last ] || bad 'an impossible size left a checkpoint'
rm -rf new

# Output folders
if [ "$(id -u)" != 0 ]; then
	mkdir locked
	chmod 500 locked
	refused 1 'locked.*Permission denied' "$anneal" train text.txt --out locked $quick
	refused 1 'Permission denied' "$anneal" train text.txt --out locked/inside $quick
	nothing_written locked
fi
refused 1 'short.txt.*(Not a directory|not a folder)' "$anneal" train text.txt --out short.txt $quick
refused 1 '(Not a directory|not a folder)' "$anneal" train text.txt --out short.txt/inside $quick
same 'a file that is in the way' 'Too short.' "$(cat short.txt)"
# a full disk: no file may have more than 64 KB, the weights do not fit
full() { (trap '' XFSZ; ulimit -f 64; exec "$anneal" train text.txt --out full $quick); }
refused 1 'File too large' full
[ -z "$(find full -name '*.tmp-*')" ] || bad "temporary files are left: $(find full)"
[ ! -e full/last ] || bad 'a checkpoint that could not be written has a name'
# ... and one that fills up later costs nothing that was there
later() { exec "$anneal" train text.txt --out later $quick --steps 40 --save-every 10 "$@"; }
later > log 2>&1 &
pid=$!
until [ -e later/last ] || ! kill -0 $pid 2> kill.err; do sleep 0.02; done
kill -KILL $pid 2> kill.err
wait $pid 2> kill.err
later_full() { trap '' XFSZ; ulimit -f 64; later --resume; }
refused 1 'File too large' eval '(later_full)'
expect 0 '' "$anneal" generate later --prompt 'the' --tokens 5
expect 0 '.' eval '(later --resume)'
[ -z "$(find later -name '*.tmp-*')" ] || bad "temporary files are left: $(find later -name '*.tmp-*')"

# A folder that holds a training is not overwritten
refused 1 'already.*--resume' "$anneal" train text.txt --out model $quick
unchanged 'training into it again'

# Model folders
refused 1 'No such file' "$anneal" generate absent
refused 1 'not a folder' "$anneal" generate text.txt
refused 1 'no config.json' "$anneal" generate folder
model=model/$(cat model/best 2> /dev/null || cat model/last)
[ -e "$model/config.json" ] || model=model
damage() { # FILE WHAT...: a copy of the model in ./damaged with one file changed by a command on stdin
	rm -rf damaged
	cp -rL "$model" damaged
	"${@:2}" < "$model/$1" > "damaged/$1"
}
middle() { perl -e 'local $/; $_ = <STDIN>; substr($_, 300, 8) = "\xff" x 8; print'; }
for file in model.safetensors config.json tokenizer.json; do
	for what in 'head -c 100' 'head -c 7' 'head -c 0' 'tail -c +20' 'tr {}[]" xyzwv'; do
		damage $file $what
		refused 1 "$file" "$anneal" generate damaged --tokens 3
	done
	damage $file cat
	rm "damaged/$file"
	refused 1 "$file" "$anneal" generate damaged --tokens 3
done
damage model.safetensors middle
refused 1 'model.safetensors' "$anneal" generate damaged --tokens 3
damage config.json sed 's/"num_attention_heads": *[0-9]*/"num_attention_heads": 7/'
refused 1 'heads' "$anneal" generate damaged --tokens 3
damage config.json sed 's/"vocab_size": *[0-9]*/"vocab_size": 1000/'
refused 1 'embed' "$anneal" generate damaged --tokens 3
damage config.json sed 's/"model_type": *"[a-z]*"/"model_type": "gpt2"/'
refused 1 'model_type' "$anneal" generate damaged --tokens 3
refused 1 '300' "$anneal" generate model --prompt-ids 5,300
refused 2 'token ids' "$anneal" generate model --prompt-ids 5,x
refused 2 'token ids' "$anneal" eval model --ids '' --logits l.npy
refused 1 'cannot|No such|directory' "$anneal" eval model --ids 1,2 --logits absent/l.npy

# Training folders: checkpoints and token files
resumed() { "$anneal" train text.txt --out damaged --resume --preset nano --vocab 300 --steps 30 --batch 4 --seed 1; }
checkpoint=$(cat model/last)
for file in "$checkpoint/model.safetensors" "$checkpoint/optimizer.safetensors" "$checkpoint/trainer_state.json" \
	"$checkpoint/config.json" tokenizer.json train.bin valid.bin last; do
	[ -e "model/$file" ] || { bad "there is no model/$file"; continue; }
	for keep in 1 60; do
		rm -rf damaged
		cp -r model damaged
		head -c $keep "model/$file" > "damaged/$file"
		# a token file cut at a whole token is only shorter; the data do not fit the checkpoint then
		[ "$file $keep" = 'last 60' ] && continue
		[ "$file $keep" = 'valid.bin 60' ] && continue
		state=$(tree damaged)
		refused 1 "$(basename "$file")|checkpoint|short|tokens" resumed
		same "a folder with a damaged $file" "$state" "$(tree damaged)"
	done
done
rm -rf damaged
cp -r model damaged
printf '\377\377' | dd of=damaged/train.bin bs=1 seek=100 conv=notrunc 2> dd.log
refused 1 'train.bin.*(65535|token)' resumed
rm -rf damaged
cp -r model damaged
refused 1 'dim 64.*128' "$anneal" train text.txt --out damaged --resume --preset nano \
	--vocab 300 --steps 30 --batch 4 --seed 1 --dim 128

# MIL
printf 'program(1.3)\n{\n    func main<ios18>(tensor<fp16, [4]> x {\n' > syntax.mil
refused 1 'syntax.mil:3:' "$anneal" run syntax.mil --random 1
refused 1 'syntax.mil:3:' "$anneal" grad syntax.mil --out graded
nothing_written graded
refused 1 'No such file' "$anneal" run absent.mil --random 1

unchanged 'everything'
finish
