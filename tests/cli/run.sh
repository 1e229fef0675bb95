# Running MIL programs on arrays.
. "$(dirname "$0")/common.bash"
cat > p.mil <<'MIL'
program(1.3)
{
    func main<ios18>(tensor<fp16, [2, 3]> x, tensor<fp32, [3]> z) {
            bool no = const()[name = string("no"), val = bool(false)];
            bool yes = const()[name = string("yes"), val = bool(true)];
            tensor<fp16, [2, 2]> y = matmul(transpose_x = no, transpose_y = yes, x = x, y = x)[name = string("y")];
            tensor<fp32, [3]> w = add(x = z, y = z)[name = string("w")];
        } -> (y, w);
    func other<ios18>(tensor<fp16, [2]> a) {
            tensor<fp16, [2]> b = relu(x = a)[name = string("b")];
        } -> (b);
}
MIL
npy x.npy f4 '2, 3' 1 2 3 -1 0.5 0
npy z.npy f4 '3,' 0.1 -2 1e30
npy a.npy i4 '2,' -7 7
for numerics in ieee fast; do
	expect 0 '' "$anneal" run p.mil --in x=x.npy --in z=z.npy --out y=y.npy --out w=w.npy --numerics $numerics
	same "y = x x^T in $numerics" '14 0 0 1.25' "$(npy_numbers y.npy | xargs)"
	npy_numbers w.npy | perl -ne 'BEGIN { @want = (0.2, -4, 2e30) }
		exit 1 if pack("f", $_) ne pack("f", shift @want)' || bad "w = 2 z in $numerics: $(npy_numbers w.npy)"
done
expect 0 '' "$anneal" run p.mil --in x=x.npy --in z=z.npy
has out '^y: tensor<fp16, \[2, 2\]>  min 0  max 14  mean 3.8125'
expect 0 '' "$anneal" run p.mil --function other --in a=a.npy --out b=b.npy
same 'relu of integers from a file' '0 7' "$(npy_numbers b.npy | xargs)"
expect 0 '' "$anneal" run p.mil --random 5
cp out first
expect 0 '' "$anneal" run p.mil --random 5 --threads 1
cmp -s out first || bad 'random inputs differ between runs'
expect 0 '' "$anneal" run p.mil --random 6
cmp -s out first && bad 'the seed does not matter'

# What a chip's arithmetic loses: 2^-9 * 2^-8 is below the cut-off, 2^-8 * 2^-8 is not
cat > lost.mil <<'MIL'
program(1.3)
{
    func main<ios18>(tensor<fp16, [1, 2]> a, tensor<fp16, [2, 1]> b) {
            bool no = const()[name = string("no"), val = bool(false)];
            tensor<fp16, [1, 1]> y = matmul(transpose_x = no, transpose_y = no, x = a, y = b)[name = string("y")];
        } -> (y);
}
MIL
npy la.npy f4 '1, 2' 0.001953125 0.00390625
npy lb.npy f4 '2, 1' 0.00390625 0.00390625
expect 0 '' "$anneal" run lost.mil --in a=la.npy --in b=lb.npy --stats --numerics m4
has out '^operation +products +lost +share'
has out '^matmul y +2 +1 +50.000%'
has out '^total +2 +1 +50.000%'
expect 0 '' "$anneal" run lost.mil --in a=la.npy --in b=lb.npy --stats --json --numerics m4
has out '"op": "matmul", "name": "y", "products": 2, "lost": 1, "results": 1, "vanished": 0, "overflowed": 0'
perl -e 'eval { require JSON::PP } or exit; local $/; JSON::PP::decode_json(<STDIN>)' < out || bad 'run --json is not JSON'
expect 0 '' "$anneal" run lost.mil --in a=la.npy --in b=lb.npy --stats --numerics ieee
has out '^matmul y +2 +- +0.000%'
refused 2 'explain runs nothing' "$anneal" run lost.mil --explain --stats

refused 1 'input "z" is missing' "$anneal" run p.mil --in x=x.npy
refused 1 'no input "q"' "$anneal" run p.mil --in q=x.npy --random 1
refused 1 'no output "q"' "$anneal" run p.mil --out q=q.npy --random 1
refused 1 'no function "q"' "$anneal" run p.mil --function q --random 1
refused 1 'z.npy: the file has tensor<fp32, \[3\]>, input "x" is tensor<fp16, \[2, 3\]>' "$anneal" run p.mil --in x=z.npy --random 1
head -c 70 x.npy > cut.npy
refused 1 'cut.npy' "$anneal" run p.mil --in x=cut.npy --random 1
refused 1 'p.mil' "$anneal" run p.mil --in x=p.mil --random 1
refused 1 'absent/y.npy' "$anneal" run p.mil --random 1 --out y=absent/y.npy
finish
