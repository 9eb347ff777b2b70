"""The operators that a foreign program may call: they compute tensors and reach nothing else."""

from __future__ import annotations

import re
from typing import Any, Final

import torch
from torch._ops import OpOverload

_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.(\w+)\.(\w+)"
)
# Powers and shifts are left out: of Python's integers they may never end.
_ON_SIZES: Final = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_)|"
    r"torch\.sym_(int|float|max|min|not|ite|sqrt)|math\.(trunc|ceil|floor)"
)
_WITH_GRAPHS: Final = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
)
_TYPE: Final = re.compile(
    r"(Optional\[|List\[)*(Tensor|int|float|bool|number|Device|Generator)\]*|(Optional\[)?str\]?"
)
# aten has operators that open a file by its name (from_file, save): a text is never that.
_TEXTS: Final = re.compile(
    r"approximate|assert_msg|equation|indexing|interpolation|mode|norm|ord|padding|padding_mode|"
    r"reduce|rounding_mode|side"
)
_ON_NUMBERS: Final = re.compile(r"_assert_scalar|sym_constrain_range(_for_size)?")
_INTERNAL: Final = re.compile(
    r"_adaptive_avg_pool[23]d|_assert_(scalar|tensor_metadata)|_conj|_convolution|_(log_)?softmax|"
    r"_native_batch_norm_legit(_functional|_no_training)?|_prelu_kernel|_safe_softmax|_to_copy|"
    r"_scaled_dot_product_(attention_math|flash_attention_for_cpu)|_unsafe_view|_weight_norm|"
    r"_upsample_(bicubic|bilinear)2d_aa|_upsample_nearest_exact[12]d"
)
# Kernels that trust their inputs: packed weights, addresses, indices that others have checked.
_TRUSTING: Final = re.compile(
    r"unsafe|backward|sparse|cs[rc]_|bs[rc]_|mkldnn|miopen|cudnn|fbgemm|quantized|jagged|nested|"
    r"embedding_bag|segment_reduce|resize|^set_|storage|record_stream|seed|_grad_|^data$"
)


def is_operator(name: str) -> bool:
    """Return whether a name of the serialized form, e.g. torch.ops.aten.relu.default, is allowed.

    Allowed are arithmetic on sizes, three operators that hold a graph, and operators of ATen,
    prims, torchvision and PyTorch's quantization that take and give tensors and numbers alone.
    """
    if _ON_SIZES.fullmatch(name) or _WITH_GRAPHS.fullmatch(name):
        return True
    match = _OPERATOR.fullmatch(name)
    if match is None:
        return False
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    operator = getattr(packet, match[3], None)
    return isinstance(operator, OpOverload) and _computes_only(match[2], operator)


def _computes_only(name: str, operator: OpOverload[..., Any]) -> bool:
    if not _INTERNAL.fullmatch(name) and (name.startswith("_") or _TRUSTING.search(name)):
        return False
    signature = operator._schema  # noqa: SLF001 - there is no public way to it
    kinds = [str(value.type) for value in (*signature.arguments, *signature.returns)]
    texts = [value.name for value in signature.arguments if "str" in str(value.type)]
    return (
        all(map(_TEXTS.fullmatch, texts))
        and all(map(_TYPE.fullmatch, kinds))
        and bool(_ON_NUMBERS.fullmatch(name) or any("Tensor" in kind for kind in kinds))
    )
