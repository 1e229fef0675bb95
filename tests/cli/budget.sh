# An engine compiles so many programs for one process: a training over many processes has the bits of one in a
# single process, also when it is stopped and killed on the way, and says when no number of processes helps.
. "$(dirname "$0")/common.bash"
[ -e "${STANDIN:-}/libobjc.so" ] || exit 77
export TMPDIR=$work STANDIN_COUNTS=$work/counts
text 16000 2 > text.txt
train() { # DIR BUDGET OPTION...: replaces the shell it runs in
	exec "$anneal" train text.txt --out "$1" --preset nano --vocab 300 --steps 30 --batch 2 --seq 32 --seed 3 \
		--eval-every 10 --save-every 7 --loss-scale 1024 --weights bake --device ane --libraries "$STANDIN" \
		--quirks "compile_budget=$2" "${@:3}"
}
in_shell() { (train "$@"); }
metrics() { sed 's/, "timing".*//' "$1/metrics.jsonl"; }
final() { cat "$1/$(cat "$1/last")/"{model,optimizer}.safetensors | cksum; }

(train whole 100000) > whole.out 2> whole.err || bad "training: $(tail -3 whole.err)"
same 'processes without a limit' 1 "$(wc -l < counts)"
rm counts

# The stand-in refuses to compile more, too, so that nobody else's count is believed.
(STANDIN_COMPILES=20 train parts 20) > parts.out 2> parts.err || bad "training in parts: $(tail -3 parts.err)"
compiled=$(awk '{ n += $2 } END { print n }' counts)
processes=$(wc -l < counts)
[ "$compiled" -ge 200 ] && [ "$processes" -ge 10 ] || bad "$compiled programs in $processes processes"
awk '$2 > 20' counts | grep . && bad 'a process compiled more than 20'
grep -v 'loaded 0 .* objects 0 surfaces 0' counts && bad 'a process left something behind'
same 'metrics in parts' "$(metrics whole)" "$(metrics parts)"
same 'weights and moments in parts' "$(final whole)" "$(final parts)"
# what a person sees: the same lines but for speeds, once
shown() { sed -E 's/  [0-9.]+ [kM]?[ ]?tokens\/s.*//; s/^(speed|model): .*//' "$@"; }
same 'messages in parts' "$(shown whole.err)" "$(shown parts.err)"
same 'summary in parts' "$(shown whole.out)" "$(shown parts.out)"

# A signal and a kill in the middle of it
(train short 100000 --steps 12) > log 2>&1 || bad "a short training: $(tail -3 log)"
until_lines() { # N: while the training runs
	for _ in $(seq 400); do
		[ "$(metrics stopped 2> /dev/null | wc -l)" -ge "$1" ] || ! kill -0 $pid 2> /dev/null && break
		sleep 0.05
	done
}
train stopped 20 --steps 12 > log 2> stopped.err &
pid=$!
until_lines 4
kill -TERM $pid
wait $pid
same 'status after SIGTERM' 143 $?
has stopped.err '^stopped after [0-9]+ updates; to go on: anneal train text.txt .*--resume$'
train stopped 20 --steps 12 --resume > log 2>&1 &
pid=$!
until_lines 9
kill -KILL $pid
wait $pid 2> /dev/null
(train stopped 20 --steps 12 --resume) > log 2>&1 || bad "resuming: $(tail -3 log)"
same 'metrics after a signal and a kill' "$(metrics short)" "$(metrics stopped)"
same 'weights and moments after a signal and a kill' "$(final short)" "$(final stopped)"
[ -z "$(find "$work" -maxdepth 1 -name 'anneal-ane*' -prune -o -name model.mil -print)" ] || bad 'model folders are left'

# No process gets through one update: an error, not processes without end.  The evaluation before it needs fewer
# programs and is made.
rm -f counts
refused 1 'compile_budget.*' in_shell small 5
has err 'a new process would come no further.*--weights dynamic'
[ "$(wc -l < counts)" -le 2 ] || bad "$(wc -l < counts) processes were started"
refused 1 'more programs than the device takes from one process' in_shell none 1
# Where programs are compiled once, the same limit is enough, or said to be too small.
(train dynamic 20 --weights dynamic --steps 3) > log 2>&1 || bad "dynamic weights: $(tail -3 log)"
refused 1 'compile_budget' "$anneal" eval dynamic text.txt --device ane --libraries "$STANDIN" --quirks compile_budget=1
has err 'needs an engine that takes more'
finish
