"""OpenVINO's libraries without their telemetry, which would report every import and conversion.

from ml.openvino_quiet import openvino, openvino_genai
"""

import sys

# They do without it where it is not installed. Here it never is.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402
import openvino_genai  # noqa: E402

__all__ = ["openvino", "openvino_genai"]
