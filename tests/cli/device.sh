# --device: the engine (its stand-in), the software one, or what there is.
. "$(dirname "$0")/common.bash"
export TMPDIR=$work
layer=$source_dir/examples/layer.mil
run() { "$anneal" run "$layer" --random 1 --out "y=$1.npy" "${@:2}"; }
run soft --numerics m4 > out || bad 'soft'
expect 1 'no Neural Engine here' run none --device ane
expect 0 'the software engine is used: no Neural Engine here' run auto --device auto
expect 0 '' run ieee --numerics ieee
expect 0 '' run m4 --device auto --numerics m4
same 'auto without an engine, and ieee' "$(cksum < auto.npy)" "$(cksum < ieee.npy)"
same 'auto with numerics, and soft' "$(cksum < m4.npy)" "$(cksum < soft.npy)"
expect 2 'no device is called "fast"; there is: .*"auto"' run none --device fast
expect 2 'no device is called "ane:tcp"; there is: "ane", "ane:objc"' run none --device ane:tcp
[ -e "${STANDIN:-}/libobjc.so" ] || finish

ane=(--libraries "$STANDIN")
for device in ane ane:objc ane:e5rt auto; do
	expect 0 '' run "$device" --device "$device" "${ane[@]}"
	same "$device and m4" "$(cksum < "$device.npy")" "$(cksum < soft.npy)"
done
expect 2 'numerics "m4" is for "soft"' run none --device ane --numerics m4 "${ane[@]}"
expect 0 '' "$anneal" compare m4 ane "$layer" --random 1 "${ane[@]}"
has out '40 of 40 equal .100%.'
expect 0 '' "$anneal" compare ieee auto "$layer" --random 1 "${ane[@]}"
expect 0 '' "$anneal" fingerprint conv-relu gemm-64x256x256 --device auto --chip m4 "${ane[@]}"
has out '^  m4 '
small_model
for device in ane auto; do
	"$anneal" eval model text.txt --device $device "${ane[@]}" > $device.txt || bad "eval on $device"
	"$anneal" generate model --prompt the --tokens 12 --temperature 0 --device $device "${ane[@]}" > $device.gen || bad "generate on $device"
done
same 'evaluation' "$(cat ane.txt)" "$("$anneal" eval model text.txt --numerics m4)"
same 'generation' "$(cat auto.gen)" "$("$anneal" generate model --prompt the --tokens 12 --temperature 0 --numerics m4)"
finish
