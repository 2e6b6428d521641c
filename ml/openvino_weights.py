"""A model's weights in smaller numbers, on disk.

    save(exported, Path("openvino_model.xml"), "int8")

``ml.conversion`` serves int8, fp16 and fp32. The others were tried (docs/performance.md):
``int8 symmetric`` is as fast, ``int4`` is faster for few readers and predicts too badly.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

from ml.openvino_quiet import openvino


def save(model: openvino.Model, file: Path, form: str) -> None:
    """Write a copy of a model in fp32 with its weights in ``form``."""
    model = model.clone()
    if form.startswith("int"):
        import nncf

        modes = nncf.CompressWeightsMode
        int4: dict[str, Any] = {"group_size": 64, "ratio": 1.0}  # all but embeddings and head
        how: dict[str, dict[str, Any]] = {
            "int8": {"mode": modes.INT8_ASYM},
            "int8 symmetric": {"mode": modes.INT8_SYM},
            "int4": {"mode": modes.INT4_ASYM, **int4},
            "int4 symmetric": {"mode": modes.INT4_SYM, **int4},
        }
        nncf.set_log_level(30)
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bar
            model = nncf.compress_weights(model, **how[form])
    openvino.save_model(model, file, compress_to_fp16=form == "fp16")
