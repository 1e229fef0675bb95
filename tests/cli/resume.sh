# Killed at any moment and resumed, a training has the losses of one that was left alone; 1 and 2 threads
# give the same losses.
. "$(dirname "$0")/common.bash"
text 40000 2 > text.txt
train() { # DIR OPTION...: replaces the shell it runs in, so that a signal to that reaches it
	exec "$anneal" train text.txt --out "$1" --preset nano --vocab 300 --steps 60 --batch 4 --seed 3 \
		--save-every 7 --eval-every 20 "${@:2}"
}
# step and loss, every digit, of each update and evaluation
losses() { perl -ne 'print "$1 $2\n" if /"step": *(\d+).*?"loss": *([-0-9.e+]+)/' "$1/metrics.jsonl"; }

(train whole --threads 2) > log 2>&1 || bad "training: $(tail -3 log)"
[ "$(losses whole | wc -l)" -ge 60 ] || bad "metrics.jsonl has too few losses: $(head -c 300 whole/metrics.jsonl)"
(train single --threads 1) > log 2>&1 || bad "training with one thread: $(tail -3 log)"
same 'losses with 1 and 2 threads' "$(losses whole | cksum)" "$(losses single | cksum)"

# SIGKILL at three moments, the first while the text is still being prepared
for delay in 0.05 0.5 0.9; do
	train killed --resume > log 2>&1 &
	pid=$!
	sleep $delay
	kill -KILL $pid 2> /dev/null
	wait $pid 2> /dev/null
done
# and once at the moment a checkpoint appears
train killed --resume > log 2>&1 &
pid=$!
for _ in $(seq 200); do
	[ -e killed/last ] || ! kill -0 $pid 2> /dev/null && break
	sleep 0.02
done
kill -KILL $pid 2> /dev/null
wait $pid 2> /dev/null
(train killed --resume) > log 2>&1 || bad "resuming: $(tail -3 log)"
same 'losses of the resumed training' "$(losses whole | cksum)" "$(losses killed | cksum)"
final() { cksum < "$1/$(cat "$1/last")/model.safetensors"; }
same 'final weights' "$(final whole)" "$(final killed)"
[ -z "$(find killed -name '*.tmp-*')" ] || bad "temporary files are left: $(find killed -name '*.tmp-*')"

# Ctrl-C: a checkpoint, and the command that goes on, which does
train stopped --steps 100000 --save-every -1 --eval-every -1 > log 2> err &
pid=$!
for _ in $(seq 200); do
	[ "$(losses stopped 2> /dev/null | wc -l)" -ge 3 ] && break
	sleep 0.05
done
kill -INT $pid
wait $pid
same 'status after SIGINT' 130 $?
has err '^stopped after [0-9]+ updates; to go on: anneal train text.txt .*--resume$'
done_steps=$(sed -n 's/^stopped after \([0-9]*\) .*/\1/p' err)
[ -e "stopped/$(cat stopped/last)/model.safetensors" ] || bad 'no checkpoint after SIGINT'
command=$(sed -n 's/.*to go on: anneal //p' err)
(eval "exec \"\$anneal\" $command" > log 2> err) &
pid=$!
for _ in $(seq 200); do
	[ "$(losses stopped | wc -l)" -gt $((done_steps + 1)) ] && break
	sleep 0.05
done
kill -TERM $pid
wait $pid
same 'status after SIGTERM' 143 $?
steps=$(losses stopped | awk '{print $1}')
same 'updates in metrics.jsonl, each once' "$steps" "$(seq "$(head -1 <<< "$steps")" "$(tail -1 <<< "$steps")")"

# A checkpoint that cannot be written is the news, not the signal
train gone --steps 100000 --save-every -1 --eval-every -1 > log 2> err &
pid=$!
for _ in $(seq 200); do
	[ "$(losses gone 2> /dev/null | wc -l)" -ge 3 ] && break
	sleep 0.05
done
rm -r gone
echo 'a file' > gone
kill -INT $pid
wait $pid
same 'status when the folder is gone' 1 $?
has err '^anneal.*gone'
! grep -q '^stopped' err || bad "says how to go on: $(cat err)"

# The summary of a resumed training does not make up what came before: at this rate step 10 stays the best
diverge() { train diverged --steps 40 --lr 0.1 --warmup 0 --eval-every 5 --save-every 10 "$@"; }
(diverge) > log 2>&1 || bad "training at a high rate: $(tail -3 log)"
has log '^before: 4\.'
echo step-30 > diverged/last
(diverge --resume) > log 2>&1 || bad "resuming at a high rate: $(tail -3 log)"
has log '^after: '
! grep -E '^(before|best):' log || bad "what this run did not measure: $(cat log)"
finish
