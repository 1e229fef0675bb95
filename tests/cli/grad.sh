# Differentiated programs are programs: they lint clean and run, and their gradients are right.
. "$(dirname "$0")/common.bash"
layer=$source_dir/examples/layer.mil
expect 0 '' "$anneal" grad "$layer" --out g
has out 'g/fwd.mil: 2 inputs, [0-9]+ outputs'
expect 0 '' "$anneal" lint g/fwd.mil g/bwd.mil
expect 0 '' "$anneal" run g/fwd.mil --random 1
expect 0 '' "$anneal" run g/bwd.mil --random 1
has out '^d_w: tensor<fp16, \[8, 16\]>'
has out '^d_x: tensor<fp16, \[16, 5\]>'
expect 0 '' "$anneal" grad "$layer" --wrt w --out only
expect 0 '' "$anneal" run only/bwd.mil --random 1
grep -q d_x out && bad '--wrt w gives d_x too'

# y = x^2 * 3: dy/dx = 6 x, exactly representable here
cat > square.mil <<'MIL'
program(1.3)
{
    func main<ios18>(tensor<fp16, [4]> x) {
            fp16 three = const()[name = string("three"), val = fp16(0x1.8p+1)];
            tensor<fp16, [4]> s = mul(x = x, y = x)[name = string("s")];
            tensor<fp16, [4]> y = mul(x = s, y = three)[name = string("y")];
        } -> (y);
}
MIL
npy x.npy f4 '4,' 1 -2 0.5 0
npy d.npy f4 '4,' 1 1 2 1
expect 0 '' "$anneal" grad square.mil --out s
inputs=$(sed -n 's/.*func main<ios18>(\(.*\)) {/\1/p' s/bwd.mil)
given=(--in d_y=d.npy)
[[ $inputs == *' x'* ]] && given+=(--in x=x.npy)
expect 0 '' "$anneal" run s/bwd.mil "${given[@]}" --out d_x=dx.npy
same 'the gradient of 3 x^2' '6 -12 6 0' "$(npy_numbers dx.npy | xargs)"

refused 1 'nothing' "$anneal" grad "$layer" --wrt nothing --out none
[ ! -e none ] || bad 'a refused gradient made a folder'
refused 1 'no function "q"' "$anneal" grad "$layer" --function q --out none
refused 1 'cannot make the folder' "$anneal" grad "$layer" --out square.mil/inside
finish
