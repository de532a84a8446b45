"""Makes prepare.png, what `geometry.prepare` gives for the image built in tests/images/test_geometry.py.

Run it from the checkout's folder after a change of the pixels that is meant, and look at the picture:

    PYTHONPATH=src:. python tests/golden/make_prepare.py
"""

from pathlib import Path

from PIL import Image

from pneumonia.images import geometry
from tests.images.test_geometry import GOLDEN, golden_source

if __name__ == "__main__":
    Image.fromarray(geometry.prepare(golden_source(), geometry.Preparation(**GOLDEN))).save(
        Path(__file__).with_name("prepare.png")
    )
