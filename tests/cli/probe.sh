# anneal probe: on the software engine everything agrees with its own profile; on a stand-in of the engine what
# differs is found and named; what ends a process ends neither the probe nor its report.
. "$(dirname "$0")/common.bash"
export TMPDIR=$work
probe() { "$anneal" probe --threads 1 "$@"; }
json() { # FILE PERL: an expression over the report $r that must be true
	perl -e 'eval { require JSON::PP } or exit; local $/; my $r = JSON::PP::decode_json(<STDIN>);
		my %i = map { ("$_->{group} $_->{id}" => $_) } @{$r->{items}}; eval($ARGV[0]) or exit 1' "$2" < "$1" ||
		bad "JSON: $2: $(head -c 400 "$1")"
}
expect 0 '' probe --numerics m1 --only case,choice --json m1.json
has out '^[0-9]+ agree, 0 differ, [0-9]+ unknown, 0 could not be tried$'
json m1.json '$r->{differ} == 0 && $r->{failed} == 0 && $r->{agree} > 100 && $r->{chip} eq "m1"'
expect 1 '' probe --numerics ieee --chip m4 --only case --json other.json
has out '^  differs  add-[0-9]+ +2048 65504 '
json other.json '$i{"case add-0"}{verdict} eq "differs" && $i{"case add-0"}{expected} =~ /^2050 /'
expect 1 '' probe --numerics m4,rounding=even,slice=gain16 --chip m4 --only choice
has out '^  differs  rounding +even \([0-9]+ of [0-9]+ cases that tell them apart\); expected: away'
has out '^  differs  slice +gain16 '
expect 0 '' probe --device soft --only fingerprint,speed --numerics m4 --json speed.json
has out '^  unknown  dispatch +[0-9.]+ [un]?s; expected: 90 us$'
json speed.json '$i{"speed dispatch"}{value} > 0 && $i{"speed dispatch"}{reference} == 90e-6 && $i{"speed reload"}{observed} =~ /are used/'
json speed.json 'grep({ $_->{group} eq "fingerprint" && $_->{verdict} eq "agrees" } @{$r->{items}}) == 5'
# a worker that the system ends, in the middle of something: that item failed, the others are there
(ulimit -c 0 -t 1; probe --numerics m1 --only fingerprint --json ended.json) > out 2> err
has out '^  failed   [a-z0-9-]+ +ended the process: (CPU time limit exceeded|Killed)'
json ended.json '$r->{failed} > 0 && $r->{differ} == 0 && $r->{processes} > 1 && $r->{agree} + $r->{failed} + $r->{unknown} == @{$r->{items}}'
expect 2 'there is no|no profile' probe --chip m9 --only case
expect 2 'none of habit' probe --only numbers
expect 2 'unexpected operand' probe more
expect 1 'no Neural Engine here' probe --device ane
expect 1 'cannot write' probe --numerics m4 --only case --json /nowhere/report.json
expect 0 'the software engine is used' probe --only case
if script -qec true /dev/null > script.out 2>&1 < /dev/null; then # on a terminal: what is being tried
	script -qec "'$anneal' probe --threads 1 --numerics m1 --only case" /dev/null < /dev/null | tr '\r' '\n' > shown
	has shown '^  trying add-0'
	has shown $'^\033\\[K  [0-9]+ agree' # in its place
fi
[ -e "${STANDIN:-}/libobjc.so" ] || finish

engine=(--device ane --libraries "$STANDIN")
export STANDIN_COMPILES=119
expect 0 '' probe "${engine[@]}" --only habit,case,choice --json ane.json
has out 'ane:objc \(m4\), compared with m4$'
json ane.json '$r->{differ} == 0 && $r->{failed} == 0 && $r->{processes} > 3 && $i{"habit compile_budget"}{value} == 119'
for habit in ordered_names packed own_outputs no_bool_ports explicit build_info kept_folder; do
	json ane.json '$i{"habit '$habit'"}{verdict} eq "agrees"'
done
json ane.json '$i{"habit explicit"}{observed} =~ /ANECCompile/ && $i{"habit packed"}{observed} eq "gives wrong data"'
for quirks in equal_size=on min_width=32 ordered_names=off,explicit=off; do
	STANDIN_QUIRKS=$quirks expect 1 '' probe "${engine[@]}" --only habit
	cat out >> habits
done
has habits '^  differs  equal_size +fails: .*0x1d.*; expected: a program that does not meet it works$'
has habits '^  differs  min_width +fails: .*0x1d.*; works at 32 elements; expected: .* works$'
has habits '^  differs  ordered_names +works; expected: .* gives wrong data$'
has habits '^  differs  explicit +works; expected: .* is refused$'
same 'habits that differ' "$(awk '/^  differs/ { print $2 }' habits | tr '\n' ' ')" \
	'ordered_bytes equal_size constant_kernels min_width constant_kernels contraction ordered_names explicit '
STANDIN_PROFILE=m1 expect 1 '' probe "${engine[@]}" --only choice --json m1.json
has out '^  differs  slice +gain16 '
json m1.json '$i{"choice slice"}{expected} eq "exact" && $i{"choice product"}{verdict} eq "agrees"'
STANDIN_CHIP='Apple M9' expect 0 '' probe "${engine[@]}" --only case
has out 'since the device does not say which chip it is$'
# the other route, and rules on operations
expect 0 '' probe --device ane:e5rt --libraries "$STANDIN" --only habit --json e5rt.json
json e5rt.json '$r->{differ} == 0 && $r->{failed} == 0 && $i{"habit own_outputs"}{observed} eq "works" && $i{"habit short_ports"}{verdict} eq "agrees"'
json e5rt.json '$i{"habit compile_budget"}{expected} eq "no limit" && $i{"habit keeps_weights"}{observed} =~ /old weights/'
STANDIN_QUIRKS=fixed_ports=on expect 1 '' probe --device ane:e5rt --libraries "$STANDIN" --only habit --json rules.json
json rules.json '$i{"habit fixed_ports"}{verdict} eq "differs" && $i{"habit fixed_ports"}{observed} =~ /^fails/'
[ -z "$(find "$work" -name model.mil)" ] || bad 'model folders are left'
finish
