#!/bin/bash
# The example reaches 87% on the test images, and says what to do when there are none.
#   fashion_mlp.sh EXECUTABLE
set -u
example=$1

message=$("$example" /nonexistent 2>&1) && { echo "no failure without a dataset"; exit 1; }
[[ $message == *"dataset-fashion-mnist"* ]] || { echo "unhelpful: $message"; exit 1; }

[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || { echo "dataset-fashion-mnist is not installed"; exit 77; }
output=$("$example") || exit 1
echo "$output"
accuracy=$(sed -n 's/^accuracy on the test set: \([0-9.]*\)%$/\1/p' <<<"$output")
awk -v a="$accuracy" 'BEGIN { exit !(a >= 87) }' || { echo "$accuracy% is below 87%"; exit 1; }
