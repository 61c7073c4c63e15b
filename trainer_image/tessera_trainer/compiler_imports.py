"""What a trainer whose blocks are compiled needs besides, for the warm process: seconds, even where all of the code is
in the cache. Imports, and what does not change while a program runs and is remembered by whom it is asked (digests of
PyTorch's and Triton's own files, which are part of each key of the cache); no device is touched."""

import setuptools  # type: ignore[import-untyped]  # noqa: F401
import torch._dynamo.backends.inductor
import torch._functorch.aot_autograd
import torch._inductor.choices
import torch._inductor.compile_fx
import torch.export._trace
import torch.utils.cpp_extension  # noqa: F401
from torch._inductor import codecache
from torch._inductor.codegen import common

codecache.torch_key()
codecache.triton_key()
common.init_backend_registration()
