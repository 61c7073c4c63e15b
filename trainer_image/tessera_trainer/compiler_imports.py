"""What a trainer whose blocks are compiled imports besides, for the warm process: seconds, even where all of the code
is in the cache. Imports only; nothing is initialised."""

import setuptools  # type: ignore[import-untyped]  # noqa: F401
import torch._dynamo
import torch._functorch.aot_autograd
import torch._inductor.compile_fx  # noqa: F401
