"""Makes prepare.png, what `preprocess.prepare` gives for the image built in tests/test_preprocess.py.

Run it from the checkout's folder after a change of the pixels that is meant, and look at the picture:

    PYTHONPATH=src:tests python tests/golden/make_prepare.py
"""

from pathlib import Path

from PIL import Image
from test_preprocess import GOLDEN, golden_source

from pneumonia import preprocess

if __name__ == "__main__":
    Image.fromarray(preprocess.prepare(golden_source(), **GOLDEN)).save(Path(__file__).with_name("prepare.png"))
