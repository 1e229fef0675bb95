# Shared by the tests of the command line: bash SCRIPT ANNEAL SOURCE_DIR.  Every test works in a folder
# of its own that goes away with it.
set -uo pipefail
anneal=$(realpath "$1")
source_dir=$(realpath "$2")
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

bad() {
	echo "FAILED: $*" >&2
	failures=$((failures + 1))
}

# expect STATUS PATTERN COMMAND...: the status, and an extended regular expression that standard error has
# ('' : it must be empty).  Standard output goes to ./out, standard error to ./err.
expect() {
	local status=$1 pattern=$2 got
	shift 2
	"$@" > out 2> err
	got=$?
	if [ $got != "$status" ]; then
		bad "$* -> status $got, expected $status: $(head -c 600 err)"
	elif [ -z "$pattern" ] && [ -s err ]; then
		bad "$* -> unexpected message: $(head -c 600 err)"
	elif [ -n "$pattern" ] && ! grep -qE -- "$pattern" err; then
		bad "$* -> expected a message like \"$pattern\", got: $(head -c 600 err)"
	fi
}

# A refusal is one message (a hint to --help apart) that begins with the command's name.
refused() {
	local status=$1
	expect "$@"
	[ "$(grep -c '^anneal' err)" = 1 ] || bad "${*:3} -> expected one message: $(cat err)"
	[ "$status" = 2 ] || tail -n 1 err | grep -q '^anneal\|\^$' || bad "${*:3} -> the message is not the last line: $(cat err)"
}

has() { # FILE PATTERN
	grep -qE -- "$2" "$1" || bad "$1 has no \"$2\": $(head -c 600 "$1")"
}

same() { # WHAT A B
	[ "$2" = "$3" ] || bad "$1: \"$2\" and \"$3\" differ"
}

# text BYTES SEED: English-like words from a fixed generator.
text() {
	awk -v bytes="$1" -v x="$2" 'BEGIN {
		n = split("the a of and to in it was that he she had not with for his her as on at said but they one all " \
			  "house morning father letter letters sister walked walking little great never always thought " \
			  "evening garden carriage answer wished happy happiness room door window", word, " ")
		while (out < bytes) {
			x = (x * 16807) % 2147483647
			w = word[1 + int((x / 2147483647) ^ 2 * n)] (x % 11 == 0 ? ".\n" : " ")
			printf "%s", w
			out += length(w)
		}
	}'
}

# npy FILE DTYPE(f4 i4) SHAPE("2, 3") NUMBER...
npy() {
	local file=$1 dtype=$2 shape=$3
	shift 3
	perl -e '
		my ($dtype, $shape, @x) = @ARGV;
		my $dict = "{\x27descr\x27: \x27<$dtype\x27, \x27fortran_order\x27: False, \x27shape\x27: ($shape), }";
		$dict .= " " x (63 - (10 + length $dict) % 64) . "\n";
		print "\x93NUMPY\x01\0", pack("v", length $dict), $dict, pack($dtype eq "f4" ? "f<*" : "l<*", @x);
	' "$dtype" "$shape" "$@" > "$file"
}

# The numbers of a float32 or float16 array, one per line.
npy_numbers() {
	perl -e '
		binmode STDIN;
		local $/;
		my $all = <STDIN>;
		my $size = unpack "x8 v", $all;
		my $data = substr $all, 10 + $size;
		if (substr($all, 10, $size) =~ /<f4/) {
			print "$_\n" for unpack "f<*", $data;
		} else {
			for (unpack "v*", $data) {
				my ($e, $m) = ($_ >> 10 & 31, $_ & 1023);
				print(($_ & 0x8000 ? -1 : 1) * ($e ? (1 + $m / 1024) * 2 ** ($e - 15) : $m * 2 ** -24), "\n");
			}
		}
	' < "$1"
}

# A model of a second's training in ./model (and its text in ./text.txt), for tests that need one.
small_model() {
	text 40000 1 > text.txt
	"$anneal" train text.txt --out model --preset nano --vocab 300 --steps 20 --batch 4 --seed 1 > train.out 2> train.err ||
		{ cat train.err >&2; bad "training a small model"; finish; }
}

finish() {
	[ $failures = 0 ] || { echo "$failures failed" >&2; exit 1; }
	exit 0
}
