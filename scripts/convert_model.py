"""Convert a model for the OpenVINO engine into the model's own folder, where it ships.

python -m scripts.convert_model FOLDER [--out FOLDER/openvino]

The worker converts what is not converted yet by itself; this is for models that must serve where
no torch is installed. Half a minute for 100 million parameters on one core.
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
    parser.add_argument("--out", type=Path, help="default: the folder's openvino/")
    options = parser.parse_args(arguments)
    if missing := conversion.missing_libraries():
        raise SystemExit(f"no {', '.join(missing)} here; install with: {conversion.INSTALL}")
    from ml.openvino_model import convert

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    conversion.log.setLevel(logging.INFO)
    target = options.out or options.folder / conversion.BUNDLED
    try:
        made = convert(options.folder, target)
    except (conversion.ConversionError, RegistryError) as error:
        raise SystemExit(str(error)) from error
    size = sum(file.stat().st_size for file in made.folder.iterdir())
    print(f"{made.folder}: {made.meta['format']}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
