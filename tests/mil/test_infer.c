/* Every row of the op table: result types of right arguments, diagnostics of wrong ones.  The
 * expected types are those of NumPy and coremltools' documentation. */
#include "support/mil_support.h"

/* Values in scope of every case. */
#define INPUTS                                                                                             \
	"tensor<fp16, [2, 3, 4]> x, tensor<fp16, [3, 1]> n, tensor<fp32, [2, 3, 4]> f, tensor<int32, [2, " \
	"3]> i, "                                                                                          \
	"tensor<bool, [3, 4]> b, fp16 s, tensor<fp16, [1, 4, 9, 8]> img, tensor<fp16, [6, 4, 3, 3]> w, "   \
	"tensor<fp16, [6, 2, 3, 3]> wg, tensor<fp16, [5, 4, 3]> w1, tensor<fp16, [6]> v6, tensor<fp16, "   \
	"[4]> v4, "                                                                                        \
	"tensor<fp16, [5, 4]> m, tensor<int8, [2, 3]> q, tensor<fp16, [2, 1, 3, 1]> ones, "                \
	"tensor<fp16, [2, 5, 3, 4]> big, tensor<fp16, [1, 1, 1, 1, 2]> five"

typedef struct result_case {
	const char *call;  /* "relu(x = x)" */
	const char *type;  /* of the result; of several, separated by '|'; NULL: refused */
	const char *words; /* must be in the diagnostic */
} result_case;

#define GOOD(call, type)         \
	{                        \
		call, type, NULL \
	}
#define BAD(call, words)          \
	{                         \
		call, NULL, words \
	}

static const result_case cases[] = {
    /* constants */
    GOOD("const()[val = tensor<int32, [2]>([1, 2])]", "tensor<int32, [2]>"),
    GOOD("const()[val = uint64(18446744073709551615)]", "uint64"),
    GOOD("const()[val = tensor<fp16, [9, 9]>(BLOBFILE(path = string(\"@model_path/w.bin\"), offset = "
	 "uint64(64)))]",
	 "tensor<fp16, [9, 9]>"),
    BAD("const()", "needs the attribute val"),
    GOOD("constexpr_affine_dequantize()[quantized_data = tensor<int8, [2, 2]>([1, 2, 3, 4]), zero_point = "
	 "int8(0), "
	 "scale = fp16(0.5), axis = int32(0)]",
	 "tensor<fp16, [2, 2]>"),
    GOOD("constexpr_affine_dequantize()[quantized_data = tensor<uint8, [1, 2]>([1, 2]), zero_point = "
	 "tensor<uint8, [2]>([0, 1]), scale = tensor<fp32, [2]>([1, 2]), axis = int32(-1)]",
	 "tensor<fp32, [1, 2]>"),
    BAD("constexpr_affine_dequantize()[quantized_data = tensor<int8, [2]>([1, 2]), zero_point = int8(0), "
	"scale = "
	"tensor<fp16, [3]>([1, 2, 3]), axis = int32(0)]",
	"scale has 3 elements"),
    BAD("constexpr_affine_dequantize()[quantized_data = tensor<int8, [2]>([1, 2]), zero_point = uint8(0), "
	"scale = "
	"fp16(1), axis = int32(0)]",
	"zero_point must be int8"),
    BAD("constexpr_affine_dequantize()[zero_point = int8(0), scale = fp16(1), axis = int32(0)]",
	"quantized_data"),

    /* two operands */
    GOOD("add(x = x, y = n)", "tensor<fp16, [2, 3, 4]>"),
    GOOD("add(x = n, y = v4)", "tensor<fp16, [3, 4]>"),
    GOOD("add(x = i, y = int32(1))", "tensor<int32, [2, 3]>"),
    BAD("add(x = x, y = f)", "cast one of them"),
    BAD("add(x = x, y = v6)", "does not broadcast"),
    BAD("add(x = b, y = b)", "x must be fp16, fp32 or an integer"),
    BAD("add(x = x)", "needs the argument y"),
    GOOD("sub(x = s, y = s)", "fp16"),
    BAD("sub(x = x, y = b)", "y must be"),
    GOOD("mul(x = s, y = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("mul(x = x, y = w)", "does not broadcast"),
    GOOD("real_div(x = x, y = v4)", "tensor<fp16, [2, 3, 4]>"),
    BAD("real_div(y = x)", "needs the argument x"),
    GOOD("floor_div(x = i, y = i)", "tensor<int32, [2, 3]>"),
    BAD("floor_div(x = i, y = x)", "cast one of them"),
    GOOD("mod(x = i, y = int32(2))", "tensor<int32, [2, 3]>"),
    BAD("mod(x = i, y = v6)", "cast one of them"),
    GOOD("pow(x = x, y = -0.5)", "tensor<fp16, [2, 3, 4]>"),
    BAD("pow(x = x, y = fp32(2))", "cast one of them"),
    GOOD("maximum(x = five, y = n)", "tensor<fp16, [1, 1, 1, 3, 2]>"),
    BAD("maximum(x = five, y = x)", "y of type tensor<fp16, [2, 3, 4]> does not broadcast"),
    GOOD("minimum(x = n, y = five)", "tensor<fp16, [1, 1, 1, 3, 2]>"),
    BAD("minimum(x = x, y = v6)", "does not broadcast"),
    GOOD("equal(x = i, y = i)", "tensor<bool, [2, 3]>"),
    BAD("equal(x = i, y = b)", "y must be"),
    GOOD("not_equal(x = x, y = s)", "tensor<bool, [2, 3, 4]>"),
    BAD("not_equal(x = x)", "needs the argument y"),
    GOOD("less(x = x, y = n)", "tensor<bool, [2, 3, 4]>"),
    BAD("less(x = x, y = v6)", "does not broadcast"),
    GOOD("less_equal(x = s, y = s)", "bool"),
    BAD("less_equal(x = x, y = i)", "cast one of them"),
    GOOD("greater(x = f, y = fp32(0))", "tensor<bool, [2, 3, 4]>"),
    BAD("greater(x = b, y = b)", "x must be"),
    GOOD("greater_equal(x = i, y = int32(3))", "tensor<bool, [2, 3]>"),
    BAD("greater_equal(x = i, y = f)", "cast one of them"),
    GOOD("select(cond = b, a = x, b = s)", "tensor<fp16, [2, 3, 4]>"),
    GOOD("select(cond = b, a = s, b = s)", "tensor<fp16, [3, 4]>"),
    BAD("select(cond = x, a = x, b = x)", "cond must be bool"),
    BAD("select(cond = b, a = x, b = f)", "cast one of them"),

    /* one operand */
    GOOD("identity(x = b)", "tensor<bool, [3, 4]>"),
    BAD("identity()", "needs the argument x"),
    GOOD("cast(x = x, dtype = \"fp32\")", "tensor<fp32, [2, 3, 4]>"),
    GOOD("cast(x = b, dtype = \"int32\")", "tensor<int32, [3, 4]>"),
    BAD("cast(x = x, dtype = \"fp8\")", "must be one of: fp16, fp32"),
    BAD("cast(x = x)", "needs the argument dtype"),
    GOOD("abs(x = i)", "tensor<int32, [2, 3]>"),
    BAD("abs(x = b)", "x must be"),
    GOOD("sign(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("sign(x = b)", "x must be"),
    GOOD("square(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("square(x = b)", "x must be"),
    GOOD("sqrt(x = f)", "tensor<fp32, [2, 3, 4]>"),
    BAD("sqrt(x = i)", "x must be fp16 or fp32"),
    GOOD("rsqrt(x = x)", "tensor<fp16, [2, 3, 4]>"),
    GOOD("rsqrt(x = x, epsilon = 1e-5)", "tensor<fp16, [2, 3, 4]>"),
    BAD("rsqrt(x = x, epsilon = s)", "epsilon must be a constant"),
    GOOD("inverse(x = s)", "fp16"),
    BAD("inverse(x = i)", "x must be fp16 or fp32"),
    GOOD("exp(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("exp(x = i)", "x must be fp16 or fp32"),
    GOOD("exp2(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("exp2(x = i)", "x must be fp16 or fp32"),
    GOOD("log(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("log(x = x, epsilon = tensor<fp16, [2]>([1, 2]))", "epsilon must be a scalar"),
    GOOD("sin(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("sin(x = i)", "x must be fp16 or fp32"),
    GOOD("cos(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("cos(x = i)", "x must be fp16 or fp32"),
    GOOD("erf(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("erf(x = i)", "x must be fp16 or fp32"),
    GOOD("floor(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("floor(x = i)", "x must be fp16 or fp32"),
    GOOD("ceil(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("ceil(x = i)", "x must be fp16 or fp32"),
    GOOD("round(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("round(x = i)", "x must be fp16 or fp32"),
    GOOD("clip(x = x, alpha = 0, beta = 6)", "tensor<fp16, [2, 3, 4]>"),
    BAD("clip(x = x, alpha = 0)", "needs the argument beta"),
    GOOD("relu(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("relu(x = (x, x))", "takes one value, 2 given"),
    GOOD("leaky_relu(x = x, alpha = 0.5)", "tensor<fp16, [2, 3, 4]>"),
    BAD("leaky_relu(x = x, alpha = int32(1))", "alpha must be fp16 or fp32"),
    GOOD("elu(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("elu(x = i)", "x must be fp16 or fp32"),
    GOOD("sigmoid(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("sigmoid(x = b)", "x must be fp16 or fp32"),
    GOOD("tanh(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("tanh(x = i)", "x must be fp16 or fp32"),
    GOOD("silu(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("silu(x = i)", "x must be fp16 or fp32"),
    GOOD("gelu(x = x)", "tensor<fp16, [2, 3, 4]>"),
    GOOD("gelu(x = x, mode = \"TANH_APPROXIMATION\")", "tensor<fp16, [2, 3, 4]>"),
    BAD("gelu(x = x, mode = \"tanh\")", "EXACT, TANH_APPROXIMATION"),
    GOOD("softplus(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("softplus(x = i)", "x must be fp16 or fp32"),
    GOOD("softsign(x = x)", "tensor<fp16, [2, 3, 4]>"),
    BAD("softsign(x = i)", "x must be fp16 or fp32"),

    /* along axes */
    GOOD("softmax(x = x)", "tensor<fp16, [2, 3, 4]>"),
    GOOD("softmax(x = x, axis = -3)", "tensor<fp16, [2, 3, 4]>"),
    BAD("softmax(x = x, axis = 3)", "axis is 3, must be in [-3, 3)"),
    BAD("softmax(x = s)", "must be in [0, 0)"),
    GOOD("reduce_sum(x = x, axes = [1], keep_dims = true)", "tensor<fp16, [2, 1, 4]>"),
    GOOD("reduce_sum(x = x, axes = [-1, 0])", "tensor<fp16, [3]>"),
    GOOD("reduce_sum(x = x)", "fp16"),
    BAD("reduce_sum(x = x, axes = [0, -3])", "twice"),
    BAD("reduce_sum(x = x, axes = [5])", "contains 5"),
    GOOD("reduce_mean(x = x, axes = [2])", "tensor<fp16, [2, 3]>"),
    BAD("reduce_mean(x = b)", "x must be"),
    GOOD("reduce_max(x = i, axes = [0])", "tensor<int32, [3]>"),
    BAD("reduce_max(x = i, axes = [2])", "contains 2"),
    GOOD("reduce_min(x = x, keep_dims = true)", "tensor<fp16, [1, 1, 1]>"),
    BAD("reduce_min(x = x, axes = [0, 1, 2, 0, 1, 2])", "has 6 elements"),
    GOOD("reduce_sum_square(x = x, axes = [0])", "tensor<fp16, [3, 4]>"),
    BAD("reduce_sum_square(x = x, axes = tensor<int32, [1, 1]>([0]))", "must be a list"),
    GOOD("reduce_l2_norm(x = x, axes = [1, 2])", "tensor<fp16, [2]>"),
    BAD("reduce_l2_norm(x = x, keep_dims = int32(1))", "keep_dims must be bool"),
    GOOD("reduce_argmax(x = x)", "tensor<int32, [2, 3]>"),
    GOOD("reduce_argmax(x = x, axis = 0, keep_dims = true, output_dtype = \"uint16\")",
	 "tensor<uint16, [1, 3, 4]>"),
    BAD("reduce_argmax(x = x, output_dtype = \"fp16\")", "must be one of: int32, uint16"),
    GOOD("reduce_argmin(x = f, axis = 1)", "tensor<int32, [2, 4]>"),
    BAD("reduce_argmin(x = f, axis = -4)", "axis is -4"),
    GOOD("topk(x = x, k = 2)", "tensor<fp16, [2, 3, 2]>|tensor<int32, [2, 3, 2]>"),
    GOOD("topk(x = x, k = 2, axis = 0, return_indices = false)", "tensor<fp16, [2, 3, 4]>"),
    BAD("topk(x = x, k = 5)", "k is 5, must be in [1, 4]"),
    BAD("topk(x = x, k = 2)", "gives 2 results, 1 declared"),
    GOOD("layer_norm(x = x, axes = [-1], gamma = v4, beta = v4, epsilon = 1e-5)", "tensor<fp16, [2, 3, 4]>"),
    BAD("layer_norm(x = x, axes = [-1], gamma = v6)", "gamma must have the lengths of the axes normalised"),

    /* contractions */
    GOOD("matmul(x = big, y = big, transpose_y = true)", "tensor<fp16, [2, 5, 3, 3]>"),
    GOOD("matmul(x = x, y = m, transpose_y = true)", "tensor<fp16, [2, 3, 5]>"),
    GOOD("matmul(x = v4, y = v4)", "fp16"),
    GOOD("matmul(x = x, y = v4)", "tensor<fp16, [2, 3]>"),
    GOOD("matmul(x = v4, y = w1)", "tensor<fp16, [5, 3]>"),
    GOOD("matmul(x = m, y = m, transpose_x = true)", "tensor<fp16, [4, 4]>"),
    BAD("matmul(x = m, y = m)", "y has inner dimension 5, x has 4"),
    BAD("matmul(x = v4, y = m, transpose_x = true)", "x has rank 1 and cannot be transposed"),
    BAD("matmul(x = s, y = m)", "x is a scalar"),
    BAD("matmul(x = x, y = w1)", "batch axes that do not broadcast"),
    BAD("matmul(x = m, y = m, transpose_x = b)", "transpose_x must be a constant"),
    GOOD("linear(x = x, weight = m)", "tensor<fp16, [2, 3, 5]>"),
    BAD("linear(x = x, weight = v4)", "weight must be [out, in]"),
    BAD("linear(x = x, weight = m, bias = v4)", "bias must have shape [5]"),
    GOOD("conv(x = img, weight = w)", "tensor<fp16, [1, 6, 7, 6]>"),
    GOOD("conv(x = img, weight = w, bias = v6, strides = [2, 3], dilations = [2, 1])",
	 "tensor<fp16, [1, 6, 3, 2]>"),
    GOOD("conv(x = img, weight = w, pad_type = \"custom\", pad = [1, 0, 2, 3])",
	 "tensor<fp16, [1, 6, 8, 11]>"),
    GOOD("conv(x = img, weight = w, pad_type = \"valid\", pad = [1, 1, 1, 1])", "tensor<fp16, [1, 6, 7, 6]>"),
    GOOD("conv(x = img, weight = w, pad_type = \"same\", strides = [2, 2])", "tensor<fp16, [1, 6, 5, 4]>"),
    GOOD("conv(x = img, weight = wg, groups = 2)", "tensor<fp16, [1, 6, 7, 6]>"),
    BAD("conv(x = img, weight = wg)", "weight has 2 input channels per group"),
    BAD("conv(x = img, weight = w, groups = 4)", "does not divide"),
    BAD("conv(x = img, weight = w, pad_type = \"full\")", "must be valid, custom, same or same_lower"),
    BAD("conv(x = img, weight = w, pad_type = \"custom\")", "pad is missing"),
    BAD("conv(x = img, weight = w, strides = [0, 1])", "must be at least 1"),
    BAD("conv(x = img, weight = w, dilations = [5, 1])", "reaches over"),
    BAD("conv(x = x, weight = w)", "weight has rank 4"),
    BAD("conv(x = img, weight = w, bias = v4)", "bias must have shape [6]"),
    GOOD("scaled_dot_product_attention(query = big, key = big, value = big)", "tensor<fp16, [2, 5, 3, 4]>"),
    GOOD("scaled_dot_product_attention(query = big, key = big, value = big, attn_mask = n)",
	 "tensor<fp16, [2, 5, 3, 4]>"),
    BAD("scaled_dot_product_attention(query = big, key = big, value = big, attn_mask = v4)",
	"attn_mask of type"),
    BAD("scaled_dot_product_attention(query = m, key = m, value = m)", "rank 3 or more"),

    /* moving elements */
    GOOD("reshape(x = x, shape = [4, -1])", "tensor<fp16, [4, 6]>"),
    GOOD("reshape(x = x, shape = [0, -1, 2])", "tensor<fp16, [2, 6, 2]>"),
    GOOD("reshape(x = x, shape = [1, 24, 1, 1, 1])", "tensor<fp16, [1, 24, 1, 1, 1]>"),
    BAD("reshape(x = x, shape = [5, -1])", "multiples of 5 elements"),
    BAD("reshape(x = x, shape = [-1, -1])", "-1 twice"),
    BAD("reshape(x = x, shape = [0, 12])", "contains 0"),
    BAD("reshape(x = x, shape = [2, 3, 5])", "has 30 elements"),
    BAD("reshape(x = x, shape = [2, 3, 2, 1, 1, 2])", "has 6 axes"),
    BAD("reshape(x = x, shape = [2147483647, 2147483647, 2147483647])", "is too large"),
    BAD("reshape(x = x, shape = i)", "shape must be a constant"),
    GOOD("transpose(x = x, perm = [2, 0, -2])", "tensor<fp16, [4, 2, 3]>"),
    BAD("transpose(x = x, perm = [0, 1])", "perm has 2 elements"),
    BAD("transpose(x = x, perm = [0, 1, 1])", "not a permutation"),
    GOOD("expand_dims(x = i, axes = [0, -1])", "tensor<int32, [1, 2, 3, 1]>"),
    BAD("expand_dims(x = x, axes = [0, 1, 2])", "rank 6"),
    BAD("expand_dims(x = x, axes = [0, 0])", "twice"),
    BAD("expand_dims(x = x, axes = [9])", "contains 9"),
    GOOD("squeeze(x = ones)", "tensor<fp16, [2, 3]>"),
    GOOD("squeeze(x = ones, axes = [-1, 0])", "tensor<fp16, [2, 1, 3]>"),
    BAD("squeeze(x = ones, axes = [4])", "contains 4"),
    GOOD("slice_by_index(x = x, begin = [0, 1, 0], end = [2, 3, 4], stride = [1, 1, 3])",
	 "tensor<fp16, [2, 2, 2]>"),
    GOOD("slice_by_index(x = x, begin = [0, -2, 0], end = [1, -1, 0], end_mask = tensor<bool, [3]>([false, "
	 "false, "
	 "true]))",
	 "tensor<fp16, [1, 1, 4]>"),
    GOOD("slice_by_index(x = x, begin = [1, 0, 3], end = [0, 3, 0], stride = [-1, 1, -2])",
	 "tensor<fp16, [1, 3, 2]>"),
    GOOD("slice_by_index(x = x, begin = [1, 0, -1], end = [0, 9, 9], squeeze_mask = tensor<bool, [3]>([true, "
	 "false, "
	 "true]))",
	 "tensor<fp16, [3]>"),
    BAD("slice_by_index(x = x, begin = [0, 0], end = [1, 1])", "begin has 2 elements"),
    BAD("slice_by_index(x = x, begin = [0, 2, 0], end = [2, 2, 4])", "selects nothing of axis 1"),
    BAD("slice_by_index(x = x, begin = [0, 0, 0], end = [1, 1, 1], stride = [1, 0, 1])", "is 0 on axis 1"),
    GOOD("slice_by_size(x = x, begin = [0, 1, -2], size = [2, -1, 1])", "tensor<fp16, [2, 2, 1]>"),
    BAD("slice_by_size(x = x, begin = [0, 1, 0], size = [2, 3, 4])", "of which 2 elements are left"),
    BAD("slice_by_size(x = x, begin = [0, 3, 0], size = [2, -1, 4])", "begin is 3 on axis 1"),
    GOOD("concat(values = (x, x, x), axis = -2)", "tensor<fp16, [2, 9, 4]>"),
    GOOD("concat(values = (x), axis = 0, interleave = true)", "tensor<fp16, [2, 3, 4]>"),
    BAD("concat(values = (x, n), axis = 0)", "does not go with"),
    BAD("concat(values = (x, f), axis = 0)", "cast one of them"),
    BAD("concat(values = (x, x), axis = 3)", "axis is 3"),
    GOOD("stack(values = (i, i), axis = -1)", "tensor<int32, [2, 3, 2]>"),
    BAD("stack(values = (i, q), axis = 0)", "cast one of them"),
    BAD("stack(values = (five, five), axis = 0)", "too large"),
    GOOD("split(x = x, num_splits = 2, axis = 2)", "tensor<fp16, [2, 3, 2]>|tensor<fp16, [2, 3, 2]>"),
    GOOD("split(x = x, split_sizes = [1, 2], axis = 1)", "tensor<fp16, [2, 1, 4]>|tensor<fp16, [2, 2, 4]>"),
    BAD("split(x = x, num_splits = 1, axis = 2)|", "gives 1 result"),
    BAD("split(x = x, num_splits = 3, axis = 2)", "does not divide axis 2"),
    BAD("split(x = x, split_sizes = [1], axis = 1)", "add up to 1"),
    BAD("split(x = x, axis = 1)", "needs num_splits or split_sizes"),
    GOOD("pad(x = x, pad = [1, 2, 0, 3])", "tensor<fp16, [2, 6, 7]>"),
    GOOD("pad(x = x, pad = [0, 3], mode = \"reflect\")", "tensor<fp16, [2, 3, 7]>"),
    BAD("pad(x = x, pad = [0, 4], mode = \"reflect\")", "does not fit into axis 2"),
    BAD("pad(x = x, pad = [1])", "two for each"),
    BAD("pad(x = x, pad = [0, 1], mode = \"wrap\")", "constant, reflect, replicate"),
    BAD("pad(x = x, pad = [0, -1])", "contains -1"),
    GOOD("tile(x = x, reps = [1, 2, 3])", "tensor<fp16, [2, 6, 12]>"),
    BAD("tile(x = x, reps = [1, 2])", "reps has 2 elements"),
    BAD("tile(x = x, reps = [1, 0, 1])", "contains 0"),
    BAD("tile(x = x, reps = [1000000000, 1000000, 1])", "too large"),

    /* quantised */
    GOOD("quantize(input = x, scale = fp16(0.1), output_dtype = \"int8\")", "tensor<int8, [2, 3, 4]>"),
    GOOD("quantize(input = x, scale = tensor<fp16, [3]>([1, 2, 3]), axis = 1, output_dtype = \"uint8\", "
	 "zero_point = "
	 "uint8(3))",
	 "tensor<uint8, [2, 3, 4]>"),
    BAD("quantize(input = x, scale = fp16(0.1), output_dtype = \"fp16\")", "must be one of: int8, uint8"),
    BAD("quantize(input = x, scale = fp16(0.1), output_dtype = \"int8\", zero_point = uint8(1))",
	"zero_point must be int8"),
    BAD("quantize(input = x, scale = tensor<fp16, [2]>([1, 2]), output_dtype = \"int8\")",
	"there is no axis"),
    GOOD("dequantize(input = q, scale = fp32(0.5))", "tensor<fp32, [2, 3]>"),
    BAD("dequantize(input = i, scale = fp32(0.5))", "input must be int8 or uint8"),
    BAD("dequantize(input = q, scale = s)", "scale must be a constant"),
};

/* Statement for a case: "T1 y0, T2 y1 = call;" */
static void write_case(const result_case *c, const char *types, char *out, size_t size)
{
	int results = 0;
	size_t at = (size_t)snprintf(out, size, "program(1.3)\n{\nfunc main<ios18>(" INPUTS ") {\n");
	for (const char *t = types; t;) {
		const char *bar = strchr(t, '|');
		int len = bar ? (int)(bar - t) : (int)strlen(t);
		at +=
		    (size_t)snprintf(out + at, size - at, "%s%.*s y%d", results ? ", " : "", len, t, results);
		results++;
		t = bar ? bar + 1 : NULL;
	}
	size_t call = strcspn(c->call, "|"); /* a bar asks for one more result than there is */
	if (c->call[call])
		at += (size_t)snprintf(out + at, size - at, ", fp16 more");
	snprintf(out + at, size - at, " = %.*s;\n} -> (y0);\n}\n", (int)call, c->call);
}

static void cases_have_their_types(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	for (int i = 0; i < LENGTH(cases); i++) {
		const result_case *c = &cases[i];
		char text[3000];
		an_program *p;
		write_case(c, c->type ? c->type : "fp16", text, sizeof text);
		an_status s = an_program_parse(ctx, text, strlen(text), "case", &p);
		if (c->type && s != AN_OK)
			fail_msg("%s", an_message(ctx));
		if (!c->type && s == AN_OK)
			fail_msg("%s was accepted", c->call);
		if (!c->type && !strstr(an_message(ctx), c->words))
			fail_msg("%s\n  should say: %s\n  says: %s", c->call, c->words, an_message(ctx));
		an_program_free(p);
		if (!c->type)
			continue;
		/* another dtype or one more axis must not be accepted */
		write_case(
		    c, strncmp(c->type, "tensor<fp16", 11) ? "tensor<fp16, [7, 77]>" : "tensor<int32, [7]>",
		    text, sizeof text);
		assert_int_not_equal(an_program_parse(ctx, text, strlen(text), "case", &p), AN_OK);
	}
	an_ctx_close(ctx);
}

static void every_row_is_covered(void **state)
{
	(void)state;
	for (int op = 0; op < OP_COUNT; op++) {
		int good = 0, bad = 0;
		char call[80];
		snprintf(call, sizeof call, "%s(", op_table[op].name);
		for (int i = 0; i < LENGTH(cases); i++)
			if (strncmp(cases[i].call, call, strlen(call)) == 0) {
				good += cases[i].type != NULL;
				bad += cases[i].words != NULL;
			}
		if (!good || !bad)
			fail_msg("%s: %d good cases, %d bad ones", op_table[op].name, good, bad);
	}
}

/* ---- Normalised parameters against plain enumeration ---------------------------------- */

static const mil_op *only_op(const an_program *p, int op)
{
	const an_function *f = an_program_function(p, NULL);
	for (size_t i = 0; i < f->nops; i++)
		if (f->ops[i].op == op)
			return &f->ops[i];
	fail_msg("no such operation");
	return NULL;
}

/* x[begin:end:stride] by walking, as Python defines it. */
static int walk(int d, int begin, int end, int stride, bool from_first, bool to_last, int *first)
{
	int at = begin < 0 ? begin + d : begin, stop = end < 0 ? end + d : end, n = 0;
	if (stride > 0) {
		at = from_first || at < 0 ? 0 : at;
		stop = to_last || stop > d ? d : stop;
	} else {
		at = from_first || at >= d ? d - 1 : at;
		stop = to_last || stop < -1 ? -1 : stop;
	}
	*first = at;
	for (; stride > 0 ? at < stop : at > stop; at += stride)
		n++;
	return n;
}

static void slices_are_pythons(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	int checked = 0;
	for (int d = 1; d <= 5; d += 2)
		for (int begin = -d - 1; begin <= d + 1; begin++)
			for (int end = -d - 1; end <= d + 1; end++)
				for (int stride = -3; stride <= 3; stride++)
					for (int mask = 0; mask < 4; mask++) {
						if (!stride)
							continue;
						int first, n = walk(d, begin, end, stride, mask & 1, mask & 2,
								    &first);
						char text[600];
						an_program *p;
						snprintf(text, sizeof text,
							 "program(1.3) { func main<ios18>(tensor<fp16, [%d]> "
							 "x) { tensor<fp16, [%d]> y = "
							 "slice_by_index(x = x, begin = [%d], end = [%d], "
							 "stride = [%d], begin_mask = "
							 "tensor<bool, [1]>([%s]), end_mask = tensor<bool, "
							 "[1]>([%s])); } -> (y); }",
							 d, MAX(n, 1), begin, end, stride,
							 mask & 1 ? "true" : "false",
							 mask & 2 ? "true" : "false");
						an_status s =
						    an_program_parse(ctx, text, strlen(text), "slice", &p);
						if ((s == AN_OK) != (n > 0))
							fail_msg("%d elements of %s\n%s", n, text,
								 an_message(ctx));
						if (s == AN_OK) {
							slice_spec spec;
							MIL_OK(ctx,
							       op_slice_spec(an_program_function(p, NULL),
									     only_op(p, OP_SLICE_BY_INDEX),
									     &spec));
							assert_int_equal(spec.begin[0], first);
							assert_int_equal(spec.count[0], n);
							assert_int_equal(spec.step[0], n == 1 ? 1 : stride);
							checked++;
						}
						an_program_free(p);
					}
	assert_true(checked > 1000);
	an_ctx_close(ctx);
}

/* "same" keeps ceil(size / stride) outputs, with the odd element of padding after ("same") or
 * before ("same_lower"); output k reads input k*stride - before + tap*dilation. */
static void conv_padding(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	for (int size = 1; size <= 9; size += 2)
		for (int kernel = 1; kernel <= 4; kernel++)
			for (int stride = 1; stride <= 3; stride++)
				for (int dilation = 1; dilation <= 2; dilation++)
					for (int lower = 0; lower < 2; lower++) {
						char text[700];
						an_program *p;
						conv_spec spec;
						int out = (size + stride - 1) / stride,
						    reach = (kernel - 1) * dilation + 1;
						snprintf(text, sizeof text,
							 "program(1.3) { func main<ios18>(tensor<fp16, [2, "
							 "3, %d]> x, tensor<fp16, [4, 3, %d]> w) { "
							 "tensor<fp16, [2, 4, %d]> y = conv(x = x, weight = "
							 "w, strides = [%d], dilations = [%d], "
							 "pad_type = \"%s\"); } -> (y); }",
							 size, kernel, out, stride, dilation,
							 lower ? "same_lower" : "same");
						MIL_OK(ctx,
						       an_program_parse(ctx, text, strlen(text), "conv", &p));
						const an_function *f = an_program_function(p, NULL);
						MIL_OK(ctx, op_conv_spec(f, only_op(p, OP_CONV), &spec));
						int total = MAX(0, (out - 1) * stride + reach - size);
						assert_int_equal(spec.ow, out);
						assert_int_equal(spec.oh, 1);
						assert_int_equal(spec.pad[0] + spec.pad[1], 0);
						assert_int_equal(spec.pad[2],
								 lower ? (total + 1) / 2 : total / 2);
						assert_int_equal(spec.pad[2] + spec.pad[3], total);
						assert_int_equal(op_flops(f, only_op(p, OP_CONV)),
								 2LL * 2 * 4 * out * 3 * kernel);
						an_program_free(p);
					}
	an_ctx_close(ctx);
}

static void defaults_are_numbers(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	const char *text =
	    "program(1.3) { func main<ios18>(tensor<fp16, [2, 3]> x) { tensor<fp16, [2, 3]> y = "
	    "rsqrt(x = x); tensor<fp16, [2, 3]> z = gelu(x = y); tensor<fp16, [2, 3]> u = softmax(x = z); "
	    "tensor<fp16, [2, 3]> v = log(x = u); } -> (v); }";
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "text", &p));
	const an_function *f = an_program_function(p, NULL);
	assert_true(fn_arg_float(f, only_op(p, OP_RSQRT), "epsilon") == 1e-12);
	assert_true(fn_arg_float(f, only_op(p, OP_LOG), "epsilon") == 1e-45);
	assert_string_equal(fn_arg_string(f, only_op(p, OP_GELU), "mode"), "EXACT");
	assert_int_equal(fn_arg_int(f, only_op(p, OP_SOFTMAX), "axis"), -1);
	/* every default in the table is of its parameter's kind */
	for (int op = 0; op < OP_COUNT; op++)
		for (int i = 0; i < OP_MAX_PARAMS && op_table[op].param[i].name; i++) {
			const op_param *q = &op_table[op].param[i];
			double d;
			if (!q->fallback)
				continue;
			if (q->kind & (PK_FLOAT | PK_INT))
				assert_true(mil_parse_double(q->fallback, strlen(q->fallback), &d));
			else if (q->kind & PK_BOOL)
				assert_true(!strcmp(q->fallback, "true") || !strcmp(q->fallback, "false"));
			else
				assert_true(q->kind & PK_STRING);
		}
	an_program_free(p);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(cases_have_their_types), cmocka_unit_test(every_row_is_covered),
	    cmocka_unit_test(slices_are_pythons), cmocka_unit_test(conv_padding),
	    cmocka_unit_test(defaults_are_numbers)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
