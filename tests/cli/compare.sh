# Where two profiles differ on a program.
. "$(dirname "$0")/common.bash"
cat > p.mil <<'MIL'
program(1.3)
{
    func main<ios18>(tensor<fp16, [3]> x) {
            tensor<fp16, [3]> a = mul(x = x, y = fp16(1))[name = string("a")];
            tensor<fp16, [3]> b = add(x = a, y = fp16(1))[name = string("b")];
            tensor<fp16, [3]> c = mul(x = b, y = fp16(2))[name = string("c")];
        } -> (a, c);
}
MIL
npy x.npy f4 '3,' 2048 1 -4
expect 0 '' "$anneal" compare ieee m4 p.mil --in x=x.npy --ops
has out '^a: tensor<fp16, \[3\]>: 3 of 3 equal \(100%\)$'
has out '^c: tensor<fp16, \[3\]>: 2 of 3 equal'
has out '^    ulp  0: 2  1: 1$'
has out '^first difference: add b, tensor<fp16, \[3\]>, line 5: 2 of 3 equal'
has out "^largest of its own, from A's values: add b"
has out '^mul c +1 +0\.000977 +0 +0$'
expect 0 '' "$anneal" compare ieee m4 p.mil --in x=x.npy --json
perl -e 'eval { require JSON::PP } or exit; local $/; my $c = JSON::PP::decode_json(<STDIN>);
	$c->{first}{name} eq "b" && $c->{outputs}[1]{all}{equal} == 2 && $c->{first}{own}{ulp}{1} == 1 or exit 1' < out ||
	bad "JSON: $(cat out)"
expect 0 '' "$anneal" compare m4 m4,rounding=even p.mil --random 3 --outputs-only
expect 0 '' "$anneal" compare m4 m4 p.mil --random 3
grep -q 'first difference' out && bad 'a profile differs from itself'
npy y.npy f4 '2,' 1 2
refused 1 'y.npy: the file has' "$anneal" compare ieee m4 p.mil --in x=y.npy
refused 1 'input "x" is missing' "$anneal" compare ieee m4 p.mil
refused 1 'no input "q"' "$anneal" compare ieee m4 p.mil --random 1 --in q=x.npy
refused 1 'absent.mil' "$anneal" compare ieee m4 absent.mil
refused 1 'no function "q"' "$anneal" compare ieee m4 p.mil --function q --random 1
refused 2 'neither numerics nor a device' "$anneal" compare ieee q p.mil --random 1
refused 2 'expected A, B and a program' "$anneal" compare ieee p.mil
refused 2 'ops needs' "$anneal" compare ieee m4 p.mil --random 1 --ops --outputs-only
finish
