"""Convert a model for the OpenVINO engine into the model's own folder, where it ships.

python -m scripts.convert_model FOLDER [--int4] [--out FOLDER/openvino]

The worker converts what is not converted yet by itself, into int8; this is for models that must
serve where no torch is installed, and for int4. Half a minute for 100 million parameters on one
core.

--int4 writes faster still to few readers at a time, on a processor with AVX-512 and VNNI
(docs/performance.md); it takes some ten minutes for ruGPT-3 medium on two cores. It may serve if it
predicts our sample stories at most 1 % worse than the original does; if not, int8 is taken.
"""

import argparse
import logging
from pathlib import Path

from ml import conversion
from ml.registry import RegistryError


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="safetensors, config.json, tokenizer")
    parser.add_argument("--int4", action="store_true", help="if it is good enough")
    parser.add_argument("--out", type=Path, help="default: the folder's openvino/")
    options = parser.parse_args(arguments)
    if missing := conversion.missing_libraries():
        raise SystemExit(f"no {', '.join(missing)} here; install with: {conversion.INSTALL}")
    from ml.openvino_model import FORMATS, INT4, convert

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    conversion.log.setLevel(logging.INFO)
    target = options.out or options.folder / conversion.BUNDLED
    try:
        conversion.check(options.folder)
        formats = INT4 if options.int4 else FORMATS
        made = convert(options.folder, target, formats=formats)
    except (conversion.ConversionError, RegistryError) as error:
        raise SystemExit(str(error)) from error
    size = sum(file.stat().st_size for file in made.folder.iterdir())
    print(f"{made.folder}: {made.meta['format']}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
